package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/cofferproject/coffer/trustee/kbsapi"
)

// attention knows which connections wait for their peer, and which of them for the
// longest time: in a handshake, a header, a body, an answer that is not read, or
// between two requests. A connection whose request is being answered is not among
// them, however long that takes (a guest that waits for a new version).
//
// A peer that sends a byte now and then gains nothing: what counts is when the
// handshake, the header or the body began, not when the last byte came. And everybody
// has the time of patience for that, however many others come: else who connects anew
// and anew would push out the honest.
type attention struct {
	now func() time.Time

	mu    sync.Mutex
	order list.List // of *limitedConn; who waits for the longest time is the first
	moved chan struct{}
}

// patience is enough for the few round trips of an honest peer.
const patience = time.Second

// spot is what attention knows of one connection.
type spot struct {
	working int // requests that are being answered
	blocked int // reads of bodies and writes that wait for the peer
	gone    bool
	since   time.Time
	elem    *list.Element
}

// update changes a connection's spot.
func (a *attention) update(c *limitedConn, change func(*limitedConn)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(c)
	p := &c.spot
	waits := !p.gone && (p.working == 0 || p.blocked > 0)
	switch {
	case waits && p.elem == nil:
		p.elem, p.since = a.order.PushBack(c), a.now()
		select {
		case a.moved <- struct{}{}:
		default:
		}
	case !waits && p.elem != nil:
		a.order.Remove(p.elem)
		p.elem = nil
	}
}

// begin says that something new is expected of the peer from now on.
func (a *attention) begin(c *limitedConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.spot.elem != nil {
		a.order.MoveToBack(c.spot.elem)
		c.spot.since = a.now()
	}
}

// longest gives the connection that waits for the longest time, once that is longer
// than patience, else how long it still has; nil and 0 if none waits.
func (a *attention) longest() (*limitedConn, time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.order.Front()
	if e == nil {
		return nil, 0
	}
	c := e.Value.(*limitedConn)
	if left := patience - a.now().Sub(c.spot.since); left > 0 {
		return nil, left
	}
	return c, 0
}

// limitedOf gives the connection below TLS, nil where it is none of a limited.
func limitedOf(c net.Conn) *limitedConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	l, _ := c.(*limitedConn)
	return l
}

type connKey struct{}

// attend lets a server's limited listener know what its connections do.
func attend(s *http.Server) {
	s.ConnState = func(c net.Conn, state http.ConnState) {
		// A request's first byte, or the wait for the next request.
		if l := limitedOf(c); l != nil && (state == http.StateActive || state == http.StateIdle) {
			l.attention.begin(l)
		}
	}
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		l := limitedOf(c)
		if l != nil {
			ctx = kbsapi.WithPresented(ctx, l.shown)
		}
		return context.WithValue(ctx, connKey{}, l)
	}
	next := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(connKey{}).(*limitedConn)
		if c == nil {
			next.ServeHTTP(w, r)
			return
		}
		c.attention.update(c, func(c *limitedConn) { c.spot.working++ })
		defer c.attention.update(c, func(c *limitedConn) { c.spot.working-- })
		if r.Body != nil && r.Body != http.NoBody {
			b := &attendedBody{ReadCloser: r.Body, conn: c}
			defer b.end()
			r.Body = b
		}
		next.ServeHTTP(w, r)
	})
}

// attendedBody waits for the peer from the first read of a body to its end.
type attendedBody struct {
	io.ReadCloser
	conn *limitedConn

	mu    sync.Mutex
	state int // 0: not begun, 1: begun, 2: ended
}

// Read implements io.Reader.
func (b *attendedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.state == 0 {
		b.state = 1
		b.conn.attention.update(b.conn, func(c *limitedConn) { c.spot.blocked++ })
	}
	b.mu.Unlock()
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end()
	}
	return n, err
}

// Close implements io.Closer.
func (b *attendedBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

func (b *attendedBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == 1 {
		b.conn.attention.update(b.conn, func(c *limitedConn) { c.spot.blocked-- })
	}
	b.state = 2
}
