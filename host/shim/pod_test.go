package shim

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// TestFlushOfAGuestThatReadsNothing: a pod with disks, whose guest takes no request any
// more, so that a call lasts beyond its context, ends whoever ends it.
func TestFlushOfAGuestThatReadsNothing(t *testing.T) {
	const never = time.Hour
	for name, c := range map[string]struct {
		end   func(t *testing.T, s *Service)
		after time.Duration // that the TEE ends
	}{
		"a container is killed": {func(t *testing.T, s *Service) {
			if _, err := s.Kill(t.Context(), &api.KillRequest{ID: "c1", Signal: 9}); err != nil {
				t.Error(err)
			}
		}, killTimeout + time.Second + flushTime + time.Second},
		"the sandbox is killed": {func(t *testing.T, s *Service) {
			if _, err := s.Kill(t.Context(), &api.KillRequest{ID: "pod1", Signal: 9}); err != nil {
				t.Error(err)
			}
		}, flushTime + time.Second},
		"the shim ends": {func(_ *testing.T, s *Service) { s.end() }, flushTime + time.Second},
		"the TEE ends by itself": {func(t *testing.T, s *Service) {
			time.AfterFunc(time.Minute, func() { _ = s.pod.vm.Destroy() })
			s.pod.flush()
			select {
			case <-s.pod.done:
			default:
				t.Error("nobody waited for the volumes")
			}
		}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, tee := podOf(t, &fakeGuest{
					signal: func(context.Context, *agentpb.SignalProcessRequest) error { time.Sleep(never); return nil },
					flush:  func(context.Context) error { time.Sleep(never); return nil },
				})
				s.pod.policy.Volumes = append(s.pod.policy.Volumes, podpolicy.Volume{Name: "data", Kind: podpolicy.VolumeDisk})
				near, far := net.Pipe()
				defer far.Close()
				s.pod.client = ttrpc.NewClient(near)
				app, box := &container{proc: newProc(stdio{}), id: "c1"}, &container{proc: newProc(stdio{}), id: "pod1", sandbox: true}
				for _, c := range []*container{app, box} {
					c.move(task.Status_CREATED, task.Status_RUNNING)
					s.containers[c.id] = c
				}
				began := time.Now()
				go c.end(t, s)
				for _, end := range []<-chan struct{}{tee.done, app.done, box.done} {
					select {
					case <-end:
						if d := time.Since(began); d != c.after {
							t.Errorf("after %s, want %s", d, c.after)
						}
					case <-time.After(never / 2):
						t.Fatal("it does not end")
					}
				}
				_ = s.pod.client.Close()
				time.Sleep(2 * never)
			})
		})
	}
}
