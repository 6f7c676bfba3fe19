package shim

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
)

// reader is a guest's process that reads its input when it is let.
type reader struct {
	agentpb.AgentServiceService
	let   chan struct{} // nothing is read before it is closed
	ended chan struct{} // its input has ended

	mu  sync.Mutex
	got bytes.Buffer
}

func (r *reader) WriteStdin(_ context.Context, w *agentpb.WriteStreamRequest) (*agentpb.WriteStreamResponse, error) {
	<-r.let
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got.Write(w.Data)
	return &agentpb.WriteStreamResponse{Len: uint32(len(w.Data))}, nil
}

func (r *reader) CloseStdin(context.Context, *agentpb.CloseStdinRequest) (*emptypb.Empty, error) {
	close(r.ended)
	return &emptypb.Empty{}, nil
}

func (r *reader) ReadStdout(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return &agentpb.ReadStreamResponse{}, nil
}

func (r *reader) ReadStderr(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return &agentpb.ReadStreamResponse{}, nil
}

// inputOf gives the streams of a process with an input, and the path of that.
func inputOf(t *testing.T, grace time.Duration) (*streams, *reader, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stdin")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &reader{let: make(chan struct{}), ended: make(chan struct{})}
	st, err := openStreams(t.Context(), r, "c1", "", stdio{in: path}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.close)
	st.grace = grace
	st.start(t.Context(), false)
	return st, r, path
}

// TestInputOfASlowReader: a process that does not read for longer than the grace gets all
// of its input nevertheless, then its end.
func TestInputOfASlowReader(t *testing.T) {
	const grace = 100 * time.Millisecond
	for name, keep := range map[string]bool{"its end is closed": false, "somebody holds it": true} {
		t.Run(name, func(t *testing.T) {
			st, r, path := inputOf(t, grace)
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			said := bytes.Repeat([]byte("coffer!\n"), 96<<10/8) // what the FIFO and one write hold
			if _, err := f.Write(said); err != nil {
				t.Fatal(err)
			}
			if !keep {
				_ = f.Close()
			}
			st.closeInput()
			time.Sleep(5 * grace)
			select {
			case <-r.ended:
				t.Error("the input ended before anything was read")
			default:
			}
			close(r.let)
			select {
			case <-r.ended:
			case <-time.After(20 * time.Second):
				t.Fatal("the input does not end")
			}
			if !bytes.Equal(r.got.Bytes(), said) {
				t.Errorf("%d of %d bytes came", r.got.Len(), len(said))
			}
		})
	}
}

// TestInputHeldOpen: an input that containerd has closed ends after the grace, though
// somebody holds its other end, or nobody has ever opened that.
func TestInputHeldOpen(t *testing.T) {
	const grace = 200 * time.Millisecond
	for name, opened := range map[string]bool{"held": true, "never opened": false} {
		t.Run(name, func(t *testing.T) {
			st, r, path := inputOf(t, grace)
			close(r.let)
			if opened {
				f, err := os.OpenFile(path, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
			}
			began := time.Now()
			st.closeInput()
			select {
			case <-r.ended:
				if d := time.Since(began); d < grace {
					t.Errorf("it ended after %s", d)
				}
			case <-time.After(20 * time.Second):
				t.Error("it does not end")
			}
		})
	}
}
