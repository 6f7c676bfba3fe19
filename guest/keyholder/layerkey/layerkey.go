// Package layerkey is the narrow path on which the image parser gets layer
// keys from the key holder: one connection for each pull, handed over by the
// agent, good for one image of the pod policy.
//
// The agent asks for a connection with HandOver and gives its end to the
// parser. The parser first presents the image's manifest, then annotation
// packets; the key holder answers each with the layer's private options or an
// error. Messages are an operation byte, a 32-bit big-endian length and a body.
//
// Invariants: the key holder believes neither end: the manifest must have the
// digest that the connection is for, that digest must be in the pod policy, and
// a packet must be in the manifest presented on that same connection, which gives one
// layer's key and then no other. One request at a time.
//
// Trust zone: guest.
package layerkey

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/denial"
)

// Operations and answers.
const (
	OpManifest = 'm' // body: the manifest, as the registry gave it
	OpPacket   = 'u' // body: annotation packet, JSON
	AnswerOK   = 'k' // body: private options, JSON; empty for a manifest
	AnswerErr  = 'e' // body: denial.Denial, JSON
)

// MaxBody bounds a message's body, in bytes: the largest manifest.
const MaxBody = 4 << 20

// maxDigest bounds the message of HandOver.
const maxDigest = 256

// WriteMessage sends one message.
func WriteMessage(w io.Writer, op byte, body []byte) error {
	if len(body) > MaxBody {
		return fmt.Errorf("layer key message: %d bytes, at most %d", len(body), MaxBody)
	}
	b := binary.BigEndian.AppendUint32([]byte{op}, uint32(len(body)))
	b = append(b, body...)
	_, err := w.Write(b)
	clear(b)
	return err
}

// ReadMessage reads one message.
func ReadMessage(r io.Reader) (op byte, body []byte, err error) {
	var h [5]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(h[1:])
	if n > MaxBody {
		return 0, nil, fmt.Errorf("layer key message: %d bytes, at most %d", n, MaxBody)
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("layer key message: %w", err)
	}
	return h[0], body, nil
}

// Client is the parser's end. It is not safe for concurrent use.
type Client struct{ conn io.ReadWriter }

// NewClient speaks over the connection that HandOver gave.
func NewClient(conn io.ReadWriter) *Client { return &Client{conn} }

// PresentManifest shows the image's manifest; needed before UnwrapKey.
func (c *Client) PresentManifest(ctx context.Context, manifest []byte) error {
	_, err := c.call(ctx, OpManifest, manifest)
	return err
}

// UnwrapKey gives the private layer options in an annotation packet. It is
// ocicrypt.Unwrapper.
func (c *Client) UnwrapKey(ctx context.Context, packet []byte) ([]byte, error) {
	return c.call(ctx, OpPacket, packet)
}

func (c *Client) call(ctx context.Context, op byte, body []byte) ([]byte, error) {
	if d, ok := c.conn.(interface{ SetDeadline(time.Time) error }); ok {
		deadline, _ := ctx.Deadline() // the zero time is no deadline
		if err := d.SetDeadline(deadline); err != nil {
			return nil, fmt.Errorf("asking key holder: %w", err)
		}
	}
	if err := WriteMessage(c.conn, op, body); err != nil {
		return nil, fmt.Errorf("asking key holder: %w", err)
	}
	answer, out, err := ReadMessage(c.conn)
	if err != nil {
		return nil, fmt.Errorf("asking key holder: %w", err)
	}
	switch answer {
	case AnswerOK:
		return out, nil
	case AnswerErr:
		d := new(denial.Denial)
		if err := json.Unmarshal(out, d); err != nil {
			return nil, fmt.Errorf("asking key holder: %w", err)
		}
		if d.Reason == "" { // a fault, not a refusal
			return nil, fault(d)
		}
		return nil, d
	}
	return nil, fmt.Errorf("asking key holder: unknown answer %#x", answer)
}

// Faults that are told apart, and how an answer spells them (Denial.Claim).
var (
	ErrTrusteeUnavailable = errors.New("trustee not available")
	ErrTrusteeRefused     = errors.New("trustee not available: connection refused")
)

// Claims of an answer that is a fault.
const (
	ClaimTrusteeUnavailable = "trustee-unavailable"
	ClaimTrusteeRefused     = "trustee-refused"
)

// faultError reads as the key holder put it, and is one of the faults.
type faultError struct {
	text string
	kind error
}

func (e *faultError) Error() string { return e.text }
func (e *faultError) Unwrap() error { return e.kind }

func fault(d *denial.Denial) error {
	switch d.Claim {
	case ClaimTrusteeUnavailable:
		return &faultError{d.Detail, ErrTrusteeUnavailable}
	case ClaimTrusteeRefused:
		return &faultError{d.Detail, ErrTrusteeRefused}
	}
	return errors.New(d.Detail)
}

// HandOver asks the key holder over the agent's control connection for a
// layer-key connection, good for the image with this manifest digest. The
// caller gives the file to the parser and closes its own copy.
func HandOver(control *net.UnixConn, manifestDigest string) (*os.File, error) {
	if len(manifestDigest) == 0 || len(manifestDigest) > maxDigest {
		return nil, errors.New("handing over layer keys: manifest digest is empty or too long")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("handing over layer keys: %w", err)
	}
	theirs, ours := os.NewFile(uintptr(fds[0]), "layerkey"), os.NewFile(uintptr(fds[1]), "layerkey")
	defer theirs.Close()
	// One write is one message: the control connection is SOCK_SEQPACKET.
	if _, _, err := control.WriteMsgUnix([]byte(manifestDigest), unix.UnixRights(fds[0]), nil); err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("handing over layer keys: %w", err)
	}
	return ours, nil
}

// ControlPair makes the control connection: the key holder inherits the second
// file and gets it back as a connection with FileControl.
func ControlPair() (agent *net.UnixConn, keyholder *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making key holder's control connection: %w", err)
	}
	keyholder = os.NewFile(uintptr(fds[1]), "keyholder-control")
	agent, err = FileControl(os.NewFile(uintptr(fds[0]), "keyholder-control"))
	if err != nil {
		_ = keyholder.Close()
		return nil, nil, err
	}
	return agent, keyholder, nil
}

// FileControl turns an inherited file into the control connection and closes it.
func FileControl(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("key holder's control connection: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("key holder's control connection: not a Unix socket")
	}
	return u, nil
}

// Accept reads one hand-over at the key holder's end; io.EOF at the end.
func Accept(control *net.UnixConn) (manifestDigest string, conn net.Conn, err error) {
	buf, oob := make([]byte, maxDigest+1), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := control.ReadMsgUnix(buf, oob)
	if err != nil {
		return "", nil, err
	}
	if n == 0 && oobn == 0 {
		return "", nil, io.EOF
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return "", nil, fmt.Errorf("accepting hand-over: %w", err)
	}
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "layerkey"))
		}
	}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if len(files) != 1 || n > maxDigest {
		return "", nil, fmt.Errorf("accepting hand-over: %d files with %d bytes", len(files), n)
	}
	if conn, err = net.FileConn(files[0]); err != nil {
		return "", nil, fmt.Errorf("accepting hand-over: %w", err)
	}
	return string(buf[:n]), conn, nil
}
