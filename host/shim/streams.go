package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/fifo"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/agentpb"
)

const (
	readLen = 32 << 10
	maxRead = 4 << 20
	// inputGrace is how long the FIFO of an input that has ended must have been empty
	// before it is closed, though somebody holds its other end.
	inputGrace = 5 * time.Second
)

// stdio names what containerd gives a process for its input and output: paths of
// FIFOs, "" for none.
type stdio struct {
	in, out, err string
	terminal     bool
}

// streams copies between a process in the guest and its FIFOs.
type streams struct {
	agent  agentpb.AgentServiceService
	id     string // of the container
	execID string
	stdin  io.ReadCloser
	outs   []*os.File
	wg     sync.WaitGroup
	once   sync.Once
	log    *slog.Logger

	reads     atomic.Int64  // odd while input is waited for, with nothing on its way to the guest
	grace     time.Duration // inputGrace
	ending    sync.Once
	inputDone chan struct{} // closed when no more input is copied
	inputOnce sync.Once
}

// openStreams opens the FIFOs. Output is opened for both directions, so that a
// restart of containerd neither blocks nor ends the process.
func openStreams(ctx context.Context, agent agentpb.AgentServiceService, id, execID string, s stdio, log *slog.Logger) (*streams, error) {
	st := &streams{
		agent: agent, id: id, execID: execID, log: log.With("task", id, "exec", execID),
		grace: inputGrace, inputDone: make(chan struct{}),
	}
	for _, path := range []string{s.out, s.err} {
		f, err := openOutput(path)
		if err != nil {
			st.close()
			return nil, err
		}
		st.outs = append(st.outs, f)
	}
	if s.in != "" {
		// Opens in the background: containerd may come with its end later.
		in, err := fifo.OpenFifo(ctx, s.in, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			st.close()
			return nil, fmt.Errorf("opening standard input: %w", err)
		}
		st.stdin = in
	}
	return st, nil
}

// openOutput gives nil for no path: the output is read and dropped.
func openOutput(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening standard output: %w", err)
	}
	if fi.Mode()&os.ModeNamedPipe == 0 {
		return nil, fmt.Errorf("opening standard output: %s is no FIFO", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening standard output: %w", err)
	}
	return f, nil
}

// start begins to copy.
func (s *streams) start(ctx context.Context, terminal bool) {
	for i, f := range s.outs {
		if i == 1 && terminal {
			break // a terminal has one stream
		}
		s.wg.Go(func() {
			if err := s.read(ctx, i == 1, f); err != nil && ctx.Err() == nil {
				s.log.Warn("reading output", "error", err)
			}
		})
	}
	if s.stdin != nil {
		go func() {
			defer s.endInput()
			if err := s.write(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("input is cut", "error", err)
			}
		}()
	}
}

func (s *streams) read(ctx context.Context, stderr bool, f *os.File) error {
	call := s.agent.ReadStdout
	if stderr {
		call = s.agent.ReadStderr
	}
	req := &agentpb.ReadStreamRequest{ContainerId: s.id, ExecId: s.execID, Len: readLen}
	for {
		resp, err := call(ctx, req)
		switch n := len(resp.GetData()); {
		case err != nil && (errors.Is(err, io.EOF) || errors.Is(err, ttrpc.ErrClosed)):
			return nil
		case err != nil:
			return err
		case n == 0:
			return nil
		case n > maxRead:
			return fmt.Errorf("the agent answered a read with more than %d bytes", maxRead)
		}
		if f == nil {
			continue
		}
		if _, err := f.Write(resp.Data); err != nil {
			f = nil // who reads is gone; the process must not notice
		}
	}
}

// write copies the input. Its error says why input is lost: an input that has ended, or
// whose process has, is none.
func (s *streams) write(ctx context.Context) error {
	buf := make([]byte, readLen)
	for {
		s.reads.Add(1)
		n, err := s.stdin.Read(buf)
		s.reads.Add(1)
		if n > 0 {
			if _, werr := s.agent.WriteStdin(ctx, &agentpb.WriteStreamRequest{ContainerId: s.id, ExecId: s.execID, Data: buf[:n]}); werr != nil {
				if s.inputEnded() {
					return nil
				}
				return werr
			}
		}
		if err == nil {
			continue
		}
		_, cerr := s.agent.CloseStdin(ctx, &agentpb.CloseStdinRequest{ContainerId: s.id, ExecId: s.execID})
		switch {
		case s.inputEnded(): // closed here: it was empty, or nobody reads it any more
			return nil
		case errors.Is(err, io.EOF):
			return cerr
		}
		return err
	}
}

// closeInput is containerd's word that no more input comes: it has closed its end,
// so the FIFO ends by itself once it is read out, unless somebody else holds it.
func (s *streams) closeInput() {
	if s.stdin != nil {
		s.ending.Do(func() { go s.closeWhenEmpty() })
	}
}

// closeWhenEmpty closes the input when, for the whole grace, the FIFO was empty and
// nothing of it was on its way to the guest: a process may take its time with its input.
func (s *streams) closeWhenEmpty() {
	const looks = 10
	tick := time.NewTicker(s.grace / looks)
	defer tick.Stop()
	opened := make(chan struct{})
	raw, err := s.stdin.(syscall.Conn).SyscallConn()
	if err != nil {
		return // it is closed
	}
	go func() { // waits for containerd to open its end
		if raw.Control(func(uintptr) {}) == nil {
			close(opened)
		}
	}()
	empty := func() bool {
		select {
		case <-opened:
		default:
			return true
		}
		left := 0
		if err := raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil {
			return false // it is closed
		}
		return left == 0
	}
	for last, idle := int64(0), 0; idle < looks; {
		select {
		case <-s.inputDone:
			return
		case <-tick.C:
		}
		if now := s.reads.Load(); now%2 == 1 && now == last && empty() {
			idle++
		} else {
			last, idle = now, 0
		}
	}
	s.log.Info("closing an input that has ended and is empty, though somebody holds its other end")
	s.endInput()
	_ = s.stdin.Close()
}

func (s *streams) endInput() { s.inputOnce.Do(func() { close(s.inputDone) }) }

func (s *streams) inputEnded() bool {
	select {
	case <-s.inputDone:
		return true
	default:
		return false
	}
}

// finish waits until the output has been copied, then lets go of the FIFOs.
func (s *streams) finish(done <-chan struct{}) {
	copied := make(chan struct{})
	go func() { s.wg.Wait(); close(copied) }()
	select {
	case <-copied:
	case <-done:
	}
	s.close()
}

func (s *streams) close() {
	s.once.Do(func() {
		s.endInput()
		if s.stdin != nil {
			_ = s.stdin.Close()
		}
		for _, f := range s.outs {
			if f != nil {
				_ = f.Close()
			}
		}
	})
}
