package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/fifo"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/agentpb"
)

const (
	readLen = 32 << 10
	maxRead = 4 << 20
	// inputGrace is how long input may take to be read out after its end.
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
}

// openStreams opens the FIFOs. Output is opened for both directions, so that a
// restart of containerd neither blocks nor ends the process.
func openStreams(ctx context.Context, agent agentpb.AgentServiceService, id, execID string, s stdio) (*streams, error) {
	st := &streams{agent: agent, id: id, execID: execID}
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
func (s *streams) start(ctx context.Context, terminal bool, warn func(string, error)) {
	for i, f := range s.outs {
		if i == 1 && terminal {
			break // a terminal has one stream
		}
		s.wg.Go(func() {
			if err := s.read(ctx, i == 1, f); err != nil && ctx.Err() == nil {
				warn("reading output", err)
			}
		})
	}
	if s.stdin != nil {
		go func() {
			if err := s.write(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, os.ErrClosed) {
				warn("writing input", err)
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

func (s *streams) write(ctx context.Context) error {
	buf := make([]byte, readLen)
	for {
		n, err := s.stdin.Read(buf)
		if n > 0 {
			if _, werr := s.agent.WriteStdin(ctx, &agentpb.WriteStreamRequest{ContainerId: s.id, ExecId: s.execID, Data: buf[:n]}); werr != nil {
				return werr
			}
		}
		if err == nil {
			continue
		}
		_, cerr := s.agent.CloseStdin(ctx, &agentpb.CloseStdinRequest{ContainerId: s.id, ExecId: s.execID})
		if errors.Is(err, io.EOF) {
			return cerr
		}
		return err
	}
}

// closeInput is containerd's word that no more input comes: it has closed its end,
// so the FIFO ends by itself once it is read out, unless somebody else holds it.
func (s *streams) closeInput() {
	if s.stdin != nil {
		time.AfterFunc(inputGrace, func() { _ = s.stdin.Close() })
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
