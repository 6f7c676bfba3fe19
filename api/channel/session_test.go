package channel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// socketPair gives two ends of a buffered local connection.
func socketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func pair(t testing.TB, h, g io.ReadWriteCloser) (*Session, *Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	type res struct {
		s   *Session
		err error
	}
	ch := make(chan res, 1)
	go func() { s, err := Guest(ctx, g); ch <- res{s, err} }()
	hs, err := Host(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	r := <-ch
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { hs.Close(); r.s.Close() })
	return hs, r.s
}

func TestEcho(t *testing.T) {
	a, b := socketPair(t)
	h, g := pair(t, a, b)
	go func() {
		k, c, err := g.Accept()
		if err != nil || k != KindTTRPC {
			t.Errorf("accept: kind %q, %v", k, err)
			return
		}
		io.Copy(c, c)
		c.Close()
	}()
	c, err := h.Open(context.Background(), KindTTRPC)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB, over the window
	go func() {
		c.Write(want)
		c.(*Conn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("echo: %d bytes, %v", len(got), err)
	}
}

// Leftovers of a departed host, a stale hello among them, must not confuse
// either end.
func TestStaleBytes(t *testing.T) {
	a, b := socketPair(t)
	a.Write([]byte("\x00\x01coffcoffer\x00\x01garbage of an old session"))
	a.Write(putMsg(newNonce(), nonce{}))    // an old hello
	a.Write(putMsg(newNonce(), newNonce())) // an old confirm
	b.Write([]byte("tail of an old reply")) // and the guest's side of it
	b.Write(putMsg(newNonce(), newNonce())[3:])
	h, g := pair(t, a, b)
	go func() {
		if _, c, err := g.Accept(); err == nil {
			c.Write([]byte("ok"))
			c.Close()
		}
	}()
	c, err := h.Open(context.Background(), KindTTRPC)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "ok" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestNoPreambleIsBounded(t *testing.T) {
	a, b := socketPair(t)
	go func() {
		junk := bytes.Repeat([]byte{'c'}, 64<<10)
		for {
			if _, err := a.Write(junk); err != nil {
				return
			}
		}
	}()
	if _, err := Guest(context.Background(), b); !errors.Is(err, errStale) {
		t.Fatalf("err = %v", err)
	}
}

func TestSilentGuest(t *testing.T) {
	a, _ := socketPair(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Host(ctx, a); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("err = %v", err)
	}
}

func TestCloseUnblocksRead(t *testing.T) {
	a, b := socketPair(t)
	h, g := pair(t, a, b)
	go g.Accept() // and never answer
	c, err := h.Open(context.Background(), KindTTRPC)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { c.Close() })
	done := make(chan struct{})
	go func() { c.Read(make([]byte, 1)); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Read still blocked after Close")
	}
}

func TestHostLimitsItself(t *testing.T) {
	a, b := socketPair(t)
	h, g := pair(t, a, b)
	go func() {
		for {
			if _, _, err := g.Accept(); err != nil {
				return
			}
		}
	}()
	for range hostStreams {
		if _, err := h.Open(context.Background(), KindTTRPC); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Open(context.Background(), KindTTRPC); !errors.Is(err, ErrBusy) {
		t.Fatalf("err = %v, want ErrBusy", err)
	}
}

func TestListenerOverSessions(t *testing.T) {
	ends := make(chan net.Conn, 1)
	l := Listen(context.Background(), KindTTRPC, func(ctx context.Context) (*Session, error) {
		select {
		case c := <-ends:
			return Guest(ctx, c)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("hi"))
			c.Close()
		}
	}()
	for range 3 {
		a, b := socketPair(t)
		ends <- b
		h, err := Host(context.Background(), a)
		if err != nil {
			t.Fatal(err)
		}
		bad, err := h.Open(context.Background(), 'x')
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(bad); len(got) != 0 {
			t.Fatalf("unknown kind was answered: %q", got)
		}
		c, err := h.Open(context.Background(), KindTTRPC)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "hi" {
			t.Fatalf("got %q, %v", got, err)
		}
		h.Close()
	}
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("accept after close: %v", err)
	}
}
