package shim

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
)

// standing is a guest that answers no signal for a while; those that come are counted.
type standing struct {
	*fakeGuest
	until time.Time
	asked atomic.Int32
}

func (g *standing) SignalProcess(ctx context.Context, r *agentpb.SignalProcessRequest) (*emptypb.Empty, error) {
	g.asked.Add(1)
	if time.Now().Before(g.until) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return g.fakeGuest.SignalProcess(ctx, r)
}

// TestStartUnanswered: what the guest starts, or may start, after its caller has left is
// killed, and a container's name is free as soon as the guest lets go of it. The guest's
// judge is the real one.
func TestStartUnanswered(t *testing.T) {
	const late = startTimeout + 25*time.Second
	for name, c := range map[string]struct {
		execID string
		takes  time.Duration // the start, in the guest
		stands time.Duration // the guest, which answers no signal
		ends   error         // how the start ends
		kills  int32
	}{
		"a container":                        {"", late, 0, nil, 1},
		"a container that does not start":    {"", late, 0, errors.New("no"), 1},
		"an exec":                            {"x1", late, 0, nil, 1},
		"an exec at the last":                {"x1", 2*startTimeout - time.Second, 0, nil, 1},
		"an exec that does not start":        {"x1", late, 0, errors.New("no"), 0},
		"an exec of a guest that stood":      {"x1", 6 * time.Minute, 5 * time.Minute, nil, 1},
		"an exec of a guest that stays away": {"x1", 24 * time.Hour, 24 * time.Hour, nil, 0},
		"an exec within the guest's bounds":  {"x1", startTimeout - 5*time.Second, 0, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var kills atomic.Int32
				takes, ends, dead := time.Duration(0), error(nil), make(chan struct{})
				g := &standing{until: time.Now().Add(c.stands), fakeGuest: &fakeGuest{
					enforcer: guest(t, testPolicy()),
					create:   func(context.Context) error { return nil },
					start:    func(context.Context) error { time.Sleep(takes); return ends },
					wait:     func(context.Context) (int32, error) { <-dead; return killed, nil },
					signal:   func(context.Context, *agentpb.SignalProcessRequest) error { kills.Add(1); return nil },
				}}
				s, tee := podOf(t, g)
				s.pod.copied["config"] = true
				if err := createIn(t.Context(), t, s, "c1"); err != nil {
					t.Fatal(err)
				}
				app := s.containers["c1"]
				p := app.proc
				if c.execID != "" {
					if _, err := s.Start(t.Context(), &api.StartRequest{ID: "c1"}); err != nil {
						t.Fatal(err)
					}
					spec := *bundle("/var/lib/kubelet/pods").Process
					spec.Args = []string{"/app", "healthy"}
					p = newProc(stdio{})
					app.execs[c.execID] = &exec{proc: p, spec: &spec}
				}
				takes, ends = c.takes, c.ends
				began := time.Now()
				_, err := s.Start(t.Context(), &api.StartRequest{ID: "c1", ExecID: c.execID})
				if c.takes < startTimeout {
					if err != nil || p.state() != task.Status_RUNNING {
						t.Errorf("a start that the guest allows itself: %v", err)
					}
				} else if !unanswered(err) || time.Since(began) != startTimeout || p.state() != task.Status_STOPPED {
					t.Errorf("a start that was not answered: %v after %s", err, time.Since(began))
				}
				if c.execID == "" { // containerd's clean-up
					if _, err := s.Delete(t.Context(), &api.DeleteRequest{ID: "c1"}); err != nil || time.Since(began) != startTimeout {
						t.Errorf("deleting it: %v after %s", err, time.Since(began)-startTimeout)
					}
					if err := createIn(t.Context(), t, s, "c2"); err == nil {
						t.Error("the guest makes a second one while it starts the first")
					}
				}
				time.Sleep(c.takes + 2*lastPause - time.Since(began))
				if n := kills.Load(); n != c.kills {
					t.Errorf("SIGKILL came to %d processes, want %d", n, c.kills)
				}
				if c.execID == "" {
					if err := createIn(t.Context(), t, s, "c2"); err != nil {
						t.Errorf("the next try: %v", err)
					}
				}
				time.Sleep(killLimit)
				asked := g.asked.Load()
				time.Sleep(time.Hour)
				if more, n := g.asked.Load()-asked, kills.Load(); more != 0 || n != c.kills || tee.ended() {
					t.Errorf("%d signals more, long after; SIGKILL came to %d processes; TEE ended: %t", more, n, tee.ended())
				}
				close(dead)
				_ = tee.Destroy()
				time.Sleep(2 * startTimeout)
			})
		})
	}
}

// refusing is a guest that does not remove a container at first, or does without an answer.
type refusing struct {
	*fakeGuest
	times   int32
	answers error
	silent  bool
	asked   atomic.Int32
}

func (g *refusing) RemoveContainer(ctx context.Context, r *agentpb.RemoveContainerRequest) (*emptypb.Empty, error) {
	if g.asked.Add(1) > g.times {
		return g.fakeGuest.RemoveContainer(ctx, r)
	}
	if g.silent {
		if _, err := g.fakeGuest.RemoveContainer(ctx, r); err != nil {
			return nil, err
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, g.answers
}

// TestRemovalIsRepeated: a container that the guest does not remove at once is asked for
// again, for two minutes, while containerd has its answer.
func TestRemovalIsRepeated(t *testing.T) {
	for name, c := range map[string]struct {
		g     *refusing
		asked int32
		free  bool // the name, in the end
	}{
		"at once":           {&refusing{}, 1, true},
		"at the fourth":     {&refusing{times: 3, answers: errors.New("busy")}, 4, true},
		"without an answer": {&refusing{times: 1, silent: true}, 2, true},
		"never":             {&refusing{times: 1000, answers: errors.New("busy")}, 19, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := c.g
				g.fakeGuest = &fakeGuest{enforcer: guest(t, testPolicy()), create: func(context.Context) error { return nil }}
				s, tee := podOf(t, g)
				s.pod.copied["config"] = true
				if err := createIn(t.Context(), t, s, "c1"); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				began := time.Now()
				if _, err := s.Delete(ctx, &api.DeleteRequest{ID: "c1"}); err != nil {
					t.Error(err)
				}
				if d := time.Since(began); d > 5*time.Second || !g.silent && d > 0 {
					t.Errorf("containerd waited %s", d)
				}
				time.Sleep(time.Hour)
				if n := g.asked.Load(); n != c.asked {
					t.Errorf("asked %d times, want %d", n, c.asked)
				}
				if err := createIn(t.Context(), t, s, "c2"); (err == nil) != c.free {
					t.Errorf("the next container of the name: %v", err)
				}
				_ = tee.Destroy()
			})
		})
	}
}
