package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"
)

// firstLease is how long a leased server waits for its first lease.
const firstLease = 30 * time.Second

// Lease lets commands share a trustee that none of them owns: each holds a
// connection to a Unix socket, and the server ends when the last one has gone,
// however it went.
type Lease struct {
	ln   net.Listener
	done chan struct{}

	mu    sync.Mutex
	held  int
	ended bool
}

// NewLease listens. It must be called while the state is open, so that no other
// server's socket can be at that path.
func NewLease(path string) (*Lease, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lease socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("lease socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("lease socket: %w", err)
	}
	l := &Lease{ln: ln, done: make(chan struct{})}
	time.AfterFunc(firstLease, func() { l.release(0) })
	go l.accept()
	return l, nil
}

func (l *Lease) accept() {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		if l.ended {
			l.mu.Unlock()
			c.Close() // no greeting: it is too late
			return
		}
		l.held++
		l.mu.Unlock()
		go func() {
			defer l.release(1)
			defer c.Close()
			if _, err := c.Write([]byte{'L'}); err != nil {
				return
			}
			// Nothing is ever sent; this ends when the holder does.
			_, _ = c.Read(make([]byte, 1))
		}()
	}
}

// release gives n leases back; without any left the lease ends.
func (l *Lease) release(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held -= n
	if l.held == 0 && !l.ended {
		l.ended = true
		close(l.done)
	}
}

// Context gives a context that ends with the last lease.
func (l *Lease) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-l.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// Close stops listening and removes the socket. The zero Lease has none.
func (l *Lease) Close() {
	if l.ln == nil {
		return
	}
	l.mu.Lock()
	if !l.ended {
		l.ended = true
		close(l.done)
	}
	l.mu.Unlock()
	l.ln.Close()
}
