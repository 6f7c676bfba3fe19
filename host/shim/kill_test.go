package shim

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/agentpb"
)

// TestKillOfAnUnwillingGuest: containerd ends a sandbox after its containers alone, so a
// guest that does not kill one of them loses the TEE, whatever it says and whoever waits.
func TestKillOfAnUnwillingGuest(t *testing.T) {
	const never = time.Hour
	for name, c := range map[string]struct {
		signal func(context.Context) error
		caller time.Duration // how long who calls waits
		ends   time.Duration // when the TEE does
		code   codes.Code    // of Kill
	}{
		"does not answer": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, never, killTimeout, codes.OK},
		"reads nothing":   {func(context.Context) error { time.Sleep(never); return nil }, never, killTimeout + time.Second, codes.OK},
		"is cut off":      {func(context.Context) error { return ttrpc.ErrClosed }, never, 0, codes.OK},
		"kills nothing":   {func(context.Context) error { return nil }, never, killTimeout + exitTimeout, codes.OK},
		"refuses": {func(context.Context) error {
			return &guestError{status.New(codes.PermissionDenied, "denied")}
		}, never, killTimeout + exitTimeout, codes.PermissionDenied},
		"caller leaves": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, time.Second, killTimeout + exitTimeout, codes.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &fakeGuest{signal: func(ctx context.Context, r *agentpb.SignalProcessRequest) error {
					if r.Signal != 9 {
						t.Errorf("signal %d", r.Signal)
					}
					return c.signal(ctx)
				}}
				s, tee := podOf(t, g)
				app := &container{proc: newProc(stdio{}), id: "c1"}
				app.move(task.Status_CREATED, task.Status_RUNNING)
				s.containers["c1"] = app
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), c.caller)
				defer cancel()
				if _, err := s.Kill(ctx, &api.KillRequest{ID: "c1", Signal: 9}); status.Code(status.FromContextError(err).Err()) != c.code && status.Code(err) != c.code {
					t.Errorf("%v", err)
				}
				select {
				case <-app.done:
					if code, _ := app.result(); code != killed || time.Since(began) != c.ends || !tee.ended() {
						t.Errorf("status %d after %s, TEE ended: %t", code, time.Since(began), tee.ended())
					}
				case <-time.After(never / 2):
					t.Error("the container's end was not reported")
				}
				_ = tee.Destroy()
				time.Sleep(2 * never)
			})
		})
	}
}

// TestKillRefusedButEnded: a container that ends after a refused SIGKILL, as by an earlier
// signal, keeps its TEE.
func TestKillRefusedButEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, tee := podOf(t, &fakeGuest{signal: func(context.Context, *agentpb.SignalProcessRequest) error {
			return &guestError{status.New(codes.PermissionDenied, "denied")}
		}})
		app := &container{proc: newProc(stdio{}), id: "c1"}
		app.move(task.Status_CREATED, task.Status_RUNNING)
		s.containers["c1"] = app
		if _, err := s.Kill(t.Context(), &api.KillRequest{ID: "c1", Signal: 9}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%v", err)
		}
		time.Sleep(exitTimeout)
		s.exited(app, "", app.proc, 0)
		time.Sleep(2 * exitTimeout)
		if tee.ended() {
			t.Error("the TEE was ended")
		}
		_ = tee.Destroy()
	})
}

// TestKillWithOutputToCopy: a container whose exit the guest has told keeps its TEE,
// however long its last output takes.
func TestKillWithOutputToCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, tee := podOf(t, &fakeGuest{})
		app := &container{proc: newProc(stdio{}), id: "c1"}
		app.move(task.Status_CREATED, task.Status_RUNNING)
		s.containers["c1"] = app
		if _, err := s.Kill(t.Context(), &api.KillRequest{ID: "c1", Signal: 9}); err != nil {
			t.Error(err)
		}
		app.reported.Store(true)
		time.Sleep(2 * exitTimeout)
		if tee.ended() {
			t.Error("the TEE was ended")
		}
		_ = tee.Destroy()
	})
}
