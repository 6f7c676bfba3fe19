package channel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// MaxStreams bounds the streams that a guest holds for its host; a host
	// that opens more loses the session. With the window it bounds memory.
	MaxStreams = 64
	// hostStreams is what our own host side allows itself.
	hostStreams = MaxStreams / 2

	window  = 256 << 10 // bytes buffered per stream
	backlog = 16        // streams not yet accepted

	// writeTimeout is long because a guest under TCG on a busy machine may
	// stand still for seconds.
	writeTimeout = 2 * time.Minute
	// kindTimeout is how long a new stream may stay silent about its kind.
	kindTimeout = 30 * time.Second
	// lingerTimeout is how long a closed stream waits for the peer's close.
	lingerTimeout = 30 * time.Second
)

// ErrBusy says that the session holds as many streams as it may.
var ErrBusy = errors.New("guest channel: too many open streams")

// Session is one live guest channel. Its methods may be called concurrently.
type Session struct {
	mux    *yamux.Session
	guard  *guard
	opened chan opened // guest: streams that have named their kind
	once   sync.Once
}

type opened struct {
	kind Kind
	conn net.Conn
}

// pipe gives yamux the guarded reader and the raw writer.
type pipe struct {
	io.Reader
	io.WriteCloser
}

func newSession(rw io.ReadWriteCloser, br *bufio.Reader, host bool) (*Session, error) {
	cfg := yamux.DefaultConfig()
	cfg.AcceptBacklog = backlog
	cfg.EnableKeepAlive = false // a busy TCG guest is not dead; RPCs have deadlines
	cfg.ConnectionWriteTimeout = writeTimeout
	cfg.StreamOpenTimeout = 0
	cfg.StreamCloseTimeout = lingerTimeout
	cfg.MaxStreamWindowSize = window
	cfg.LogOutput = io.Discard // it would log the peer's bytes
	s := &Session{guard: &guard{r: br, opens: !host}, opened: make(chan opened)}
	p := pipe{Reader: s.guard, WriteCloser: rw}
	var err error
	if host {
		s.mux, err = yamux.Client(p, cfg)
	} else {
		s.mux, err = yamux.Server(p, cfg)
	}
	if err != nil {
		_ = rw.Close()
		return nil, fmt.Errorf("opening the guest channel: %w", err)
	}
	if !host {
		go s.accept()
	}
	return s, nil
}

// Open opens a stream of the given kind. Only the host's end may.
func (s *Session) Open(ctx context.Context, k Kind) (net.Conn, error) {
	if s.mux.NumStreams() >= hostStreams {
		return nil, ErrBusy
	}
	type result struct {
		c   net.Conn
		err error
	}
	got := make(chan result, 1)
	go func() {
		st, err := s.mux.OpenStream()
		if err != nil {
			got <- result{nil, err}
			return
		}
		if _, err := st.Write([]byte{byte(k)}); err != nil {
			_ = st.Close()
			got <- result{nil, err}
			return
		}
		got <- result{&Conn{st}, nil}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			return nil, fmt.Errorf("opening a stream to the guest: %w", s.cause(r.err))
		}
		return r.c, nil
	case <-ctx.Done():
		go func() {
			if r := <-got; r.c != nil {
				_ = r.c.Close()
			}
		}()
		return nil, fmt.Errorf("opening a stream to the guest: %w", context.Cause(ctx))
	}
}

// Accept gives the next stream of the guest's end and its kind. The caller
// closes streams of kinds that it does not serve.
func (s *Session) Accept() (Kind, net.Conn, error) {
	select {
	case o := <-s.opened:
		return o.kind, o.conn, nil
	case <-s.mux.CloseChan():
		return 0, nil, s.cause(net.ErrClosed)
	}
}

func (s *Session) accept() {
	for {
		st, err := s.mux.AcceptStream()
		if err != nil {
			return
		}
		if s.mux.NumStreams() > MaxStreams {
			_ = s.Close()
			return
		}
		go func() {
			_ = st.SetReadDeadline(time.Now().Add(kindTimeout))
			var k [1]byte
			if _, err := io.ReadFull(st, k[:]); err != nil {
				_ = st.Close()
				return
			}
			_ = st.SetReadDeadline(time.Time{})
			select {
			case s.opened <- opened{Kind(k[0]), &Conn{st}}:
			case <-s.mux.CloseChan():
			}
		}()
	}
}

// Close ends the session and every stream.
func (s *Session) Close() error {
	s.once.Do(func() { _ = s.mux.Close() })
	return nil
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Err tells which rule the peer broke, if that ended the session.
func (s *Session) Err() error { return s.guard.err() }

func (s *Session) cause(err error) error {
	if e := s.guard.err(); e != nil {
		return e
	}
	return err
}

// Conn is one stream. Unlike a bare yamux stream, Close also ends a pending
// Read, as net.Conn demands; CloseWrite closes one direction only.
type Conn struct{ st *yamux.Stream }

// Read reads from the stream.
func (c *Conn) Read(p []byte) (int, error) { return c.st.Read(p) }

// Write writes to the stream.
func (c *Conn) Write(p []byte) (int, error) { return c.st.Write(p) }

// CloseWrite ends the direction away from here; the other side reads an end of file.
func (c *Conn) CloseWrite() error { return c.st.Close() }

// LocalAddr gives an address that only names the channel.
func (c *Conn) LocalAddr() net.Addr { return addr{} }

// RemoteAddr gives an address that only names the channel.
func (c *Conn) RemoteAddr() net.Addr { return addr{} }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error { return c.st.SetDeadline(t) }

// SetReadDeadline bounds reads.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.st.SetReadDeadline(t) }

// SetWriteDeadline bounds writes.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.st.SetWriteDeadline(t) }

// Close ends both directions.
func (c *Conn) Close() error {
	err := c.st.Close()
	_ = c.st.SetReadDeadline(time.Unix(1, 0))
	return err
}

type addr struct{}

func (addr) Network() string { return "coffer" }
func (addr) String() string  { return PortName }
