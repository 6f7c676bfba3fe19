package container

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// drainTime is how long output is waited for after the process has ended:
// children it left behind may hold the pipe open for ever.
const drainTime = 500 * time.Millisecond

// stream is the agent's end of a process's output. The pipe itself is the bounded
// buffer: a process whose output nobody reads blocks, as with any pipe.
type stream struct {
	mu     sync.Mutex // one reader at a time
	f      *os.File
	exited <-chan struct{}
	eof    bool
}

// read gives up to max bytes, waiting for the first; no bytes mean end of output.
func (s *stream) read(ctx context.Context, max int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.eof {
		return nil, nil
	}
	// A deadline in the past wakes a blocked read: when the caller gives up, or
	// some time after the process has ended.
	stop := make(chan struct{})
	woken := make(chan struct{})
	if err := s.f.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	go func() {
		defer close(woken)
		select {
		case <-ctx.Done():
		case <-stop:
			return
		case <-s.exited:
			select {
			case <-time.After(drainTime):
			case <-ctx.Done():
			case <-stop:
				return
			}
		}
		_ = s.f.SetReadDeadline(time.Unix(1, 0))
	}()
	b := make([]byte, max)
	n, err := s.f.Read(b)
	close(stop)
	<-woken
	if n > 0 {
		return b[:n], nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// Past the drain time: what is in the pipe still counts, but no waiting.
		if n = s.readNow(b); n > 0 {
			return b[:n], nil
		}
		err = io.EOF
	}
	// A terminal's master reports EIO once its last slave has closed.
	s.eof = true
	s.f.Close()
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, unix.EIO) || errors.Is(err, os.ErrClosed) {
		return nil, nil
	}
	return nil, err
}

// readNow reads what is there.
func (s *stream) readNow(b []byte) int {
	_ = s.f.SetReadDeadline(time.Time{})
	rc, err := s.f.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = rc.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), b)
		return true
	})
	return max(n, 0)
}

// drain throws the output away until its end.
func (s *stream) drain() {
	for {
		if b, err := s.read(context.Background(), 32<<10); err != nil || len(b) == 0 {
			return
		}
	}
}

// stdio is the agent's side of a process's standard descriptors.
type stdio struct {
	mu     sync.Mutex
	stdin  *os.File // nil: closed, or none
	stdout *stream
	stderr *stream // nil with a terminal
	master *os.File
	child  []*os.File // the process's ends, until it has started
}

// newPipes makes pipes for a process without a terminal. Without stdin it reads /dev/null.
func newPipes(stdin bool) (*stdio, error) {
	var s stdio
	fail := func(err error) (*stdio, error) {
		s.close()
		return nil, err
	}
	in, err := os.Open(os.DevNull)
	if stdin {
		in, s.stdin, err = os.Pipe()
	}
	if err != nil {
		return fail(err)
	}
	s.child = append(s.child, in)
	for _, st := range []**stream{&s.stdout, &s.stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return fail(err)
		}
		s.child = append(s.child, w)
		*st = &stream{f: r}
	}
	return &s, nil
}

// newTerminalStdio is for a process that makes its terminal itself.
func newTerminalStdio() (*stdio, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &stdio{child: []*os.File{null, null, null}}, nil
}

// setMaster takes the terminal that the process has made.
func (s *stdio) setMaster(fd int) error {
	if err := checkTerminalMaster(fd); err != nil {
		unix.Close(fd)
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	in, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.master = os.NewFile(uintptr(fd), "terminal")
	s.stdin = os.NewFile(uintptr(in), "terminal")
	s.stdout = &stream{f: s.master}
	return nil
}

func (s *stdio) closeChild() {
	for _, f := range s.child {
		f.Close()
	}
	s.child = nil
}

// started ties the output's end to the process's.
func (s *stdio) started(exited <-chan struct{}) {
	for _, st := range []*stream{s.stdout, s.stderr} {
		if st != nil {
			st.exited = exited
		}
	}
}

func (s *stdio) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin == nil {
		return
	}
	if s.master != nil {
		// A terminal has no end of file of its own; ^D at the start of a line is one.
		_ = s.stdin.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = s.stdin.Write([]byte{4})
	}
	s.stdin.Close()
	s.stdin = nil
}

func (s *stdio) close() {
	s.closeChild()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin != nil {
		s.stdin.Close()
		s.stdin = nil
	}
	for _, st := range []*stream{s.stdout, s.stderr} {
		if st != nil {
			st.f.Close()
		}
	}
}
