package witness

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
)

// priority is facility 13 (log audit), severity 5 (notice), RFC 5424 section 6.2.1.
const priority = 13*8 + 5

const appName = "coffer-trustee"

// syslog sends RFC 5424 messages: over a stream framed by their length (RFC 6587, RFC
// 5425), to a datagram socket as they are. A stream is one connection for each message,
// and the receiver has it when it ends the connection after us without an error; a
// datagram socket is the kernel's word alone.
type syslog struct {
	network, address string
	tls              *tls.Config // nil: none
	hostname         string
}

func (t Target) syslog(network, address string, conf *tls.Config) (receiver, error) {
	if t.HMACFile != "" {
		return nil, fmt.Errorf("%s: syslog carries no HMAC", address)
	}
	if conf == nil && (t.CAFile != "" || t.CertFile != "") {
		return nil, fmt.Errorf("%s: certificates are of no use without TLS", address)
	}
	if network == "tcp" {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, err
		}
	}
	s := &syslog{network, address, conf, t.Hostname}
	if s.hostname == "" {
		s.hostname, _ = os.Hostname()
	}
	s.hostname = printable(s.hostname, 255)
	return s, nil
}

func (s *syslog) String() string { return "syslog " + s.address }

func (s *syslog) send(ctx context.Context, c auditlog.Signed) error {
	msg, err := s.message(c, time.Now())
	if err != nil {
		return err
	}
	if s.network == "unix" {
		// Which of the two kinds of sockets it is, only trying tells.
		if conn, err := (&net.Dialer{}).DialContext(ctx, "unixgram", s.address); err == nil {
			defer conn.Close()
			limit(ctx, conn)
			_, err := conn.Write(msg)
			return err
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, s.network, s.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	limit(ctx, conn)
	end, ok := conn.(interface{ CloseWrite() error })
	if s.tls != nil {
		t := tls.Client(conn, s.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			return err
		}
		conn, end, ok = t, t, true
	}
	if !ok {
		return fmt.Errorf("a connection of type %T", conn)
	}
	if _, err := conn.Write(append([]byte(strconv.Itoa(len(msg))+" "), msg...)); err != nil {
		return err
	}
	return acknowledged(conn, end.CloseWrite())
}

// acknowledged waits until the receiver, who has been told that nothing more comes,
// ends the connection: one that was cut, or whose receiver did not read to the end,
// ends otherwise.
func acknowledged(conn net.Conn, err error) error {
	if err != nil {
		return err
	}
	n, err := conn.Read(make([]byte, 1))
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil:
		return fmt.Errorf("the receiver answers %d bytes", n)
	}
	return fmt.Errorf("waiting for the receiver to end the connection: %w", err)
}

func limit(ctx context.Context, conn net.Conn) {
	if d, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(d) // a connection that has gone says so when it is used
	}
}

// message is one RFC 5424 message: the checkpoint as JSON, which is ASCII in one line.
func (s *syslog) message(c auditlog.Signed, at time.Time) ([]byte, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "<%d>1 %s %s %s %d checkpoint - %s",
		priority, at.UTC().Format("2006-01-02T15:04:05.000000Z"), s.hostname, appName, os.Getpid(), b), nil
}

// printable gives a header field of RFC 5424: visible ASCII, or "-" for none.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f {
			return r
		}
		return -1
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), most)]
}
