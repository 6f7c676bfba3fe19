// Package mux offers a sandbox's guest channel on a Unix socket: every accepted
// connection becomes one stream of the channel.
//
// Trust zone: host. It copies bytes and looks at none. A connection is made
// before the guest may be there: it waits, and what the client sends meanwhile
// waits in the socket.
package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// maxConns bounds connections at one time; more wait in the socket's backlog.
	maxConns = 24
	// halfClosed is how long one direction may stay open after the other ended.
	halfClosed = 30 * time.Second
)

// Dialer opens a stream to the guest; sandbox.Sandbox.Dial for a fixed kind.
type Dialer func(context.Context) (net.Conn, error)

// Server is one listening socket.
type Server struct {
	l      net.Listener
	dial   Dialer
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Serve listens on path, which must not exist, mode 0600.
func Serve(path string, dial Dialer) (*Server, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("offering the guest channel: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("offering the guest channel: %w", err)
	}
	s := &Server{l: l, dial: dial}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.accept)
	return s, nil
}

// Close ends the socket and every connection.
func (s *Server) Close() error {
	s.cancel()
	err := s.l.Close()
	s.wg.Wait()
	return err
}

func (s *Server) accept() {
	slots := make(chan struct{}, maxConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		c, err := s.l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			<-slots
			select { // out of descriptors, perhaps
			case <-time.After(50 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
			continue
		}
		s.wg.Go(func() {
			defer func() { <-slots }()
			s.serve(c)
		})
	}
}

func (s *Server) serve(client net.Conn) {
	defer client.Close()
	guest, err := s.dial(s.ctx)
	if err != nil {
		if s.ctx.Err() == nil {
			slog.Debug("dialing the guest failed", "error", err)
		}
		return
	}
	defer guest.Close()
	stop := context.AfterFunc(s.ctx, func() { _ = client.Close(); _ = guest.Close() })
	defer stop()
	done := make(chan struct{}, 2)
	go func() { copyHalf(guest, client); done <- struct{}{} }()
	go func() { copyHalf(client, guest); done <- struct{}{} }()
	<-done
	select {
	case <-done:
	case <-time.After(halfClosed):
	case <-s.ctx.Done():
	}
}

// copyHalf copies one direction and passes its end on.
func copyHalf(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if w, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
		_ = w.CloseWrite()
		return
	}
	_ = dst.Close()
}
