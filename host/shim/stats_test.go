package shim

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/agentpb"
)

// statsAgent answers, or keeps every caller waiting: until its time is over or, as one
// that does not read, without regard to that.
type statsAgent struct {
	agentpb.AgentServiceService
	hangs atomic.Bool
	deaf  chan struct{} // nil: calls end with their time
	asked atomic.Int32
}

func (a *statsAgent) StatsContainer(ctx context.Context, _ *agentpb.StatsContainerRequest) (*agentpb.StatsContainerResponse, error) {
	a.asked.Add(1)
	if !a.hangs.Load() {
		return &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{}}, nil
	}
	if a.deaf != nil {
		<-a.deaf
		return nil, context.Canceled
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestStatsOfSilentGuest: a guest that does not answer costs the node's statistics two
// seconds, once, and not for each of its containers and calls; one that answers again is
// asked again.
func TestStatsOfSilentGuest(t *testing.T) {
	for name, deaf := range map[string]bool{"answers late": false, "does not read": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := slog.New(slog.DiscardHandler)
				s := newService("pod", t.TempDir(), nil, nil, func() {}, log)
				a := new(statsAgent)
				if deaf {
					a.deaf = make(chan struct{})
				}
				s.pod = &pod{agent: a, log: log, done: make(chan struct{})}
				defer close(s.pod.done)
				for _, id := range []string{"c1", "c2"} {
					s.containers[id] = &container{proc: newProc(stdio{}), id: id}
				}
				ask := func(id string, want codes.Code, most time.Duration) {
					t.Helper()
					began := time.Now()
					_, err := s.Stats(t.Context(), &api.StatsRequest{ID: id})
					if took := time.Since(began); status.Code(err) != want || took > most {
						t.Errorf("%s after %s: %v", id, took, err)
					}
				}
				ask("c1", codes.OK, 0)
				a.hangs.Store(true)
				ask("c1", codes.Unavailable, 2*time.Second)
				ask("c2", codes.Unavailable, 0)
				time.Sleep(time.Minute)
				ask("c1", codes.Unavailable, 0)
				if n := a.asked.Load(); n > 9 {
					t.Errorf("asked %d times in a minute", n)
				}
				a.hangs.Store(false)
				if deaf {
					close(a.deaf)
				}
				time.Sleep(25 * time.Second) // a call that has hung says nothing: the next one does
				ask("c1", codes.OK, 0)
				ask("c2", codes.OK, 0)
			})
		})
	}
}

// TestStatsOfImpatientCaller: a caller that goes away says nothing of the guest.
func TestStatsOfImpatientCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := new(statsAgent)
		a.hangs.Store(true)
		p := &pod{agent: a, log: slog.New(slog.DiscardHandler), done: make(chan struct{})}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.stats(ctx, "c1"); !errors.Is(err, ctx.Err()) || p.silent.Load() {
			t.Errorf("%v, silent %t", err, p.silent.Load())
		}
	})
}
