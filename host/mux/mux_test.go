package mux

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/channel"
)

// guest gives a Dialer to a fake guest that upper-cases nothing and echoes.
func guest(t *testing.T) Dialer {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "pipe"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		g, err := channel.Guest(context.Background(), b)
		if err != nil {
			return
		}
		for {
			_, c, err := g.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	h, err := channel.Host(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return func(ctx context.Context) (net.Conn, error) { return h.Open(ctx, channel.KindTTRPC) }
}

func TestHalfClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	s, err := Serve(path, guest(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v, %v", fi, err)
	}
	for range 2 * maxConns { // slots come back
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "hello")
		c.(*net.UnixConn).CloseWrite()
		got, err := io.ReadAll(c)
		if err != nil || string(got) != "hello" {
			t.Fatalf("got %q, %v", got, err)
		}
		c.Close()
	}
}

func TestCloseEndsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	s, err := Serve(path, guest(t))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "x")
	c.Read(make([]byte, 1))
	closed := make(chan struct{})
	go func() { s.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Fatal("Close hangs")
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatalf("the connection lives: %d bytes", n)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the socket is still there: %v", err)
	}
}

func TestGuestNeverThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	s, err := Serve(path, func(ctx context.Context) (net.Conn, error) { return nil, errors.New("gone") })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("err = %v, want EOF", err)
	}
}
