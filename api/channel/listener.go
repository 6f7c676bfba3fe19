package channel

import (
	"context"
	"net"
)

// Listener serves the streams of one kind, over one session after another, as
// a net.Listener (ttrpc.Server.Serve takes it). Streams of other kinds are
// closed at once.
type Listener struct {
	kind   Kind
	conns  chan net.Conn
	ctx    context.Context
	cancel context.CancelFunc
}

// Listen makes a Listener. open gives the next session; it is called again when
// a session has ended and must pace itself. An error of open ends the listener.
func Listen(ctx context.Context, kind Kind, open func(context.Context) (*Session, error)) *Listener {
	l := &Listener{kind: kind, conns: make(chan net.Conn)}
	l.ctx, l.cancel = context.WithCancel(ctx)
	go l.run(open)
	return l
}

func (l *Listener) run(open func(context.Context) (*Session, error)) {
	defer l.cancel()
	for l.ctx.Err() == nil {
		s, err := open(l.ctx)
		if err != nil {
			return
		}
		stop := context.AfterFunc(l.ctx, func() { _ = s.Close() })
		l.serve(s)
		stop()
		_ = s.Close()
	}
}

func (l *Listener) serve(s *Session) {
	for {
		k, c, err := s.Accept()
		if err != nil {
			return
		}
		if k != l.kind {
			_ = c.Close()
			continue
		}
		select {
		case l.conns <- c:
		case <-l.ctx.Done():
			_ = c.Close()
			return
		}
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends the listener and the session it serves.
func (l *Listener) Close() error { l.cancel(); return nil }

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return addr{} }
