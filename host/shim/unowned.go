package shim

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// What containerd knows no longer and the guest may still have, or get, is ended behind
// containerd's back: by calls that are repeated for these times, with pauses that grow.
const (
	killLimit   = 10 * time.Minute // of a guest that does not answer
	removeLimit = 2 * time.Minute
	firstPause  = time.Second
	lastPause   = 8 * time.Second
)

// retry tries until it is done, the time is over or the TEE has ended.
func (p *pod) retry(within time.Duration, try func() (done bool)) {
	began := time.Now()
	for pause := firstPause; !try() && time.Since(began) < within; pause = min(2*pause, lastPause) {
		select {
		case <-p.done:
			return
		case <-time.After(pause):
		}
	}
}

// kill ends a process that nobody owns. The guest knows of no process that it has yet to
// start, so that word of it is its last only once a start is over that it had before.
func (s *Service) kill(ctx context.Context, c *container, p *pod, execID string) {
	req := &agentpb.SignalProcessRequest{ContainerId: c.id, ExecId: execID, Signal: 9}
	var heard time.Time // of the guest, first
	var err error
	p.retry(killLimit, func() bool {
		err = call(ctx, killTimeout, p.agent.SignalProcess, req)
		switch {
		case err == nil || gone(err):
			return true
		case unanswered(err):
			return false
		case heard.IsZero():
			heard = time.Now()
		}
		return time.Since(heard) >= startTimeout
	})
	if err != nil && !gone(err) && !denied(err, podpolicy.UnknownProcess) {
		s.log.Warn("killing a process whose start was given up", "task", c.id, "exec", execID, "error", err)
	}
}

// remove has the guest remove a container. What that does not do at once, as while it
// starts the container, is asked again once containerd has its answer: until it is done the
// container's name is taken.
func (s *Service) remove(ctx context.Context, c *container, p *pod) {
	asked := make(chan struct{})
	go s.removeAtLast(context.WithoutCancel(ctx), c, p, asked)
	late := time.NewTimer(callTimeout + time.Second)
	defer late.Stop()
	select {
	case <-asked:
	case <-late.C:
	case <-ctx.Done():
	case <-p.done:
	}
}

// removeAtLast closes asked after its first try.
func (s *Service) removeAtLast(ctx context.Context, c *container, p *pod, asked chan<- struct{}) {
	req := &agentpb.RemoveContainerRequest{ContainerId: c.id}
	tries := 0
	var err error
	p.retry(removeLimit, func() bool {
		err = call(ctx, callTimeout, p.agent.RemoveContainer, req)
		if tries++; tries == 1 {
			close(asked)
		}
		return err == nil || gone(err)
	})
	if err != nil && !gone(err) {
		s.log.Warn("removing a container", "task", c.id, "tries", tries, "error", err) // it goes with the TEE
	}
}

// gone tells from an error that there is nothing left to end.
func gone(err error) bool {
	return errors.Is(err, ttrpc.ErrClosed) || status.Code(err) == codes.NotFound || denied(err, podpolicy.UnknownContainer)
}

// denied reports whether an error is the guest's refusal for one of these reasons.
func denied(err error, reasons ...denial.Reason) bool {
	var g *guestError
	if !errors.As(err, &g) {
		return false
	}
	d := refusal(g.st)
	return d != nil && slices.Contains(reasons, d.Reason)
}
