package shim

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/agentpb"
)

// created puts a container that the guest has made among a service's tasks.
func created(s *Service, io stdio) *container {
	c := &container{proc: newProc(io), id: "c1", policy: &s.pod.policy.Containers[0], execs: map[string]*exec{}}
	s.containers["c1"] = c
	return c
}

// TestTEEEndsAsAProcessStarts: the output ends for containerd with the TEE, even if that
// ends just when the guest has said that the process runs.
func TestTEEEndsAsAProcessStarts(t *testing.T) {
	out := filepath.Join(t.TempDir(), "stdout")
	if err := unix.Mkfifo(out, 0o600); err != nil {
		t.Fatal(err)
	}
	g := &fakeGuest{wait: func(context.Context) (int32, error) { return 0, ttrpc.ErrClosed }}
	s, tee := podOf(t, g)
	c := created(s, stdio{out: out})
	g.start = func(context.Context) error {
		_ = tee.Destroy()
		<-c.done
		return nil
	}
	f, err := os.OpenFile(out, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context(), &api.StartRequest{ID: "c1"}); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, f); err != nil {
		t.Errorf("the output does not end: %v", err)
	}
}

// TestProcessThatTheGuestLoses: a process of whose end the guest does not tell is killed
// and ends for containerd, while the TEE lives on.
func TestProcessThatTheGuestLoses(t *testing.T) {
	for _, code := range []codes.Code{codes.NotFound, codes.ResourceExhausted} {
		synctest.Test(t, func(t *testing.T) {
			var signals atomic.Int32
			s, tee := podOf(t, &fakeGuest{
				start: func(context.Context) error { return nil },
				wait:  func(context.Context) (int32, error) { return 0, &guestError{status.New(code, "no")} },
				signal: func(_ context.Context, r *agentpb.SignalProcessRequest) error {
					signals.Add(int32(r.Signal))
					return nil
				},
			})
			c := created(s, stdio{})
			if _, err := s.Start(t.Context(), &api.StartRequest{ID: "c1"}); err != nil {
				t.Fatal(err)
			}
			if code := ends(t, c.proc, time.Minute); code != lostStatus || signals.Load() != 9 || tee.ended() {
				t.Errorf("status %d, signal %d, TEE ended: %t", code, signals.Load(), tee.ended())
			}
			_ = tee.Destroy()
		})
	}
}
