package shim

import (
	"context"
	"errors"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
)

// Bounds of a SIGKILL: the guest's answer, and its report then that the process has ended.
// Both fit into what a kubelet waits for a sandbox's end (2 minutes).
const (
	killTimeout = 10 * time.Second
	exitTimeout = 30 * time.Second
)

// Kill signals a process. The sandbox has none: any signal that ends a process
// ends the TEE. Signal 0 asks whether the process is there.
func (s *Service) Kill(ctx context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	if r.Signal != 0 && r.ExecID == "" && s.abandon(ctx, r.ID) {
		return nil, notFound("no task %s: its creation was given up", r.ID)
	}
	c, p, pod, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p.state() == task.Status_STOPPED {
		return nil, notFound("the process has ended")
	}
	if r.Signal == 0 {
		return &emptypb.Empty{}, nil
	}
	if c.sandbox {
		if r.Signal != 9 && r.Signal != 15 && r.Signal != 2 {
			return &emptypb.Empty{}, nil
		}
		return &emptypb.Empty{}, s.stopPod(ctx, c, pod)
	}
	if p.state() == task.Status_CREATED { // nothing runs yet: only its removal ends it
		s.exited(c, r.ExecID, p, killed)
		return &emptypb.Empty{}, nil
	}
	if r.Signal == 9 && p.disown() {
		if r.ExecID == "" {
			go s.mustEnd(c, pod, startTimeout+exitTimeout)
		}
		return &emptypb.Empty{}, nil
	}
	if r.Signal == 9 && r.ExecID == "" {
		return &emptypb.Empty{}, s.sigkill(ctx, c, pod)
	}
	err = call(ctx, callTimeout, pod.agent.SignalProcess, &agentpb.SignalProcessRequest{ContainerId: c.id, ExecId: r.ExecID, Signal: r.Signal})
	if err != nil && p.state() != task.Status_STOPPED {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// sigkill ends a container. The guest may not do it: then the whole TEE is ended, for
// containerd ends a pod's sandbox only once all of its containers have ended.
func (s *Service) sigkill(ctx context.Context, c *container, p *pod) error {
	answer := ask(ctx, killTimeout, p.agent.SignalProcess, &agentpb.SignalProcessRequest{ContainerId: c.id, Signal: 9})
	// Whatever the guest says, and whether or not anybody waits for it.
	c.dying.Do(func() { go s.mustEnd(c, p, killTimeout+exitTimeout) })
	late := time.NewTimer(killTimeout + time.Second)
	defer late.Stop()
	var err error
	select {
	case err = <-answer:
	case <-late.C:
		err = context.DeadlineExceeded
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
	}
	switch {
	case c.state() == task.Status_STOPPED:
		return nil
	case unanswered(err):
		s.giveUp(c, p, "it does not answer", err)
		return nil
	}
	return err
}

// unanswered tells the guest's silence from its answer.
func unanswered(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ttrpc.ErrClosed) || status.Code(err) == codes.DeadlineExceeded
}

// mustEnd gives a container that was sent SIGKILL its time to end.
func (s *Service) mustEnd(c *container, p *pod, within time.Duration) {
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-c.done:
	case <-p.done:
	case <-late.C:
		if !c.reported.Load() { // else only its output is still being copied
			s.giveUp(c, p, "it was sent SIGKILL and reports no exit", nil)
		}
	}
}

// giveUp ends a TEE whose guest does not end a container; watchVM then reports every
// exit. Volumes are written out first, if the guest still does that. Once is enough while
// that lasts.
func (s *Service) giveUp(c *container, p *pod, why string, err error) {
	if p.givenUp.Swap(true) {
		return
	}
	s.log.Error("the guest does not end a container, so its whole pod is ended", "task", c.id, "guest", why, "error", err)
	go func() {
		p.flush()
		if err := p.vm.Destroy(); err != nil {
			s.log.Error("ending the TEE", "error", err)
			p.givenUp.Store(false)
		}
	}()
}
