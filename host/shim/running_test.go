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
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
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
	if _, err := s.Start(t.Context(), &api.StartRequest{ID: "c1"}); err == nil {
		t.Error("a process runs in a TEE that has ended")
	}
	if _, err := io.Copy(io.Discard, f); err != nil {
		t.Errorf("the output does not end: %v", err)
	}
}

// TestLostProcessOfADeafGuest: the same end comes if the guest reads nothing more.
func TestLostProcessOfADeafGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, tee := podOf(t, &fakeGuest{
			start:  func(context.Context) error { return nil },
			wait:   func(context.Context) (int32, error) { return 0, &guestError{status.New(codes.NotFound, "no")} },
			signal: func(context.Context, *agentpb.SignalProcessRequest) error { time.Sleep(time.Hour); return nil },
		})
		c := created(s, stdio{})
		if _, err := s.Start(t.Context(), &api.StartRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		if code := ends(t, c.proc, time.Minute); code != lostStatus {
			t.Errorf("status %d", code)
		}
		_ = tee.Destroy()
		time.Sleep(2 * time.Hour)
	})
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

// TestStartCutOff: a process whose start is cut off is killed once the guest has started
// it, and its end is told; an exec that was deleted meanwhile is gone.
func TestStartCutOff(t *testing.T) {
	kill := func(t *testing.T, s *Service, _ context.CancelFunc, execID string) {
		if _, err := s.Kill(t.Context(), &api.KillRequest{ID: "c1", ExecID: execID, Signal: 9}); err != nil {
			t.Errorf("killing what is being started: %v", err)
		}
	}
	for name, c := range map[string]struct {
		execID  string
		cut     func(*testing.T, *Service, context.CancelFunc, string)
		answers error // of the guest, to the start
		signals int32 // that the guest gets
		gone    bool
	}{
		"an exec deleted": {"x1", func(t *testing.T, s *Service, _ context.CancelFunc, execID string) {
			if d, err := s.Delete(t.Context(), &api.DeleteRequest{ID: "c1", ExecID: execID}); err != nil || d.ExitStatus != killed {
				t.Errorf("deleting what is being started: %v, %v", d, err)
			}
		}, nil, 9, true},
		"an exec killed":                         {"x1", kill, nil, 9, false},
		"an exec killed that does not start":     {"x1", kill, &guestError{status.New(codes.NotFound, "no such file")}, 0, false},
		"an exec killed, no answer":              {"x1", kill, context.DeadlineExceeded, 9, false},
		"an exec, containerd restarts":           {"x1", func(_ *testing.T, _ *Service, cancel context.CancelFunc, _ string) { cancel() }, nil, 9, false},
		"a container killed":                     {"", kill, nil, 9, false},
		"a container killed that does not start": {"", kill, &guestError{status.New(codes.NotFound, "no such file")}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var signals atomic.Int32
				starts, dead := make(chan struct{}), make(chan struct{})
				s, tee := podOf(t, &fakeGuest{
					start: func(ctx context.Context) error {
						select {
						case <-starts:
							return c.answers
						case <-ctx.Done():
							return ctx.Err()
						}
					},
					wait: func(context.Context) (int32, error) { <-dead; return killed, nil },
					signal: func(_ context.Context, r *agentpb.SignalProcessRequest) error {
						if r.ExecId != c.execID {
							t.Errorf("a signal for %q", r.ExecId)
						}
						if signals.Add(int32(r.Signal)) == 9 {
							close(dead)
						}
						return nil
					},
				})
				app := created(s, stdio{})
				p := app.proc
				if c.execID != "" {
					app.move(task.Status_CREATED, task.Status_RUNNING)
					p = newProc(stdio{})
					app.execs[c.execID] = &exec{proc: p, spec: &specs.Process{Args: []string{"/app", "healthy"}}}
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				started := make(chan error, 1)
				go func() {
					_, err := s.Start(ctx, &api.StartRequest{ID: "c1", ExecID: c.execID})
					started <- err
				}()
				synctest.Wait()
				if st, err := s.State(t.Context(), &api.StateRequest{ID: "c1", ExecID: c.execID}); err != nil || st.Status != task.Status_CREATED {
					t.Errorf("before the guest's answer: %v, %v", st, err)
				}
				c.cut(t, s, cancel, c.execID)
				close(starts)
				if err := <-started; err == nil {
					t.Error("a start that was given up was told as done")
				}
				if code := ends(t, p, time.Minute); code != killed {
					t.Errorf("status %d", code)
				}
				synctest.Wait()
				if n := signals.Load(); n != c.signals {
					t.Errorf("signal %d came, want %d", n, c.signals)
				}
				if c.execID != "" && (app.exec(c.execID) == nil) != c.gone {
					t.Errorf("the exec is gone: %t", !c.gone)
				}
				if _, err := s.Delete(t.Context(), &api.DeleteRequest{ID: "c1", ExecID: c.execID}); (status.Code(err) == codes.NotFound) != c.gone || err != nil && !c.gone {
					t.Errorf("deleting it afterwards: %v", err)
				}
				_ = tee.Destroy()
			})
		})
	}
}
