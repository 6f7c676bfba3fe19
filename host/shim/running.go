package shim

import (
	"context"
	"time"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/agentpb"
)

// Start starts a created process.
func (s *Service) Start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	c, p, pod, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	var x *exec
	if r.ExecID != "" {
		if x = c.exec(r.ExecID); x == nil {
			return nil, notFound("no process %s in task %s", r.ExecID, r.ID)
		}
	}
	if !p.begin() {
		return nil, status.Errorf(codes.FailedPrecondition, "it is not waiting for its start")
	}
	if c.sandbox {
		p.answered()
	} else {
		// To the guest's answer, whatever becomes of who asked: the guest goes on too.
		err := s.startProcess(context.WithoutCancel(ctx), c, p, pod, r.ExecID, x)
		// A container that runs is taken over by the containerd that comes back, an exec
		// by nobody.
		unwanted := p.answered() || x != nil && ctx.Err() != nil
		if err == nil && unwanted {
			p.copying().close()
			go s.wait(context.WithoutCancel(ctx), c, p, pod, r.ExecID)
			go s.kill(context.WithoutCancel(ctx), c, pod, r.ExecID)
			if x == nil {
				c.dying.Do(func() { go s.mustEnd(c, pod, killTimeout+exitTimeout) })
			}
			return nil, status.Error(codes.Canceled, "its start was given up")
		}
		if err != nil {
			lost := unanswered(err) // it may run, or yet be started
			if lost {
				go s.kill(context.WithoutCancel(ctx), c, pod, r.ExecID)
			}
			if unwanted || lost {
				s.exited(c, r.ExecID, p, killed)
			}
			p.move(task.Status_RUNNING, task.Status_CREATED)
			return nil, err
		}
	}
	if r.ExecID == "" {
		s.events.send(&events.TaskStart{ContainerID: c.id, Pid: pod.pid})
	} else {
		s.events.send(&events.TaskExecStarted{ContainerID: c.id, ExecID: r.ExecID, Pid: pod.pid})
	}
	if !c.sandbox {
		go s.wait(context.WithoutCancel(ctx), c, p, pod, r.ExecID)
	}
	return &api.StartResponse{Pid: pod.pid}, nil
}

// startProcess has the guest start a container's own process, or x in it.
func (s *Service) startProcess(ctx context.Context, c *container, p *proc, pod *pod, execID string, x *exec) error {
	st, err := openStreams(ctx, pod.agent, c.id, execID, p.io, s.log)
	if err != nil {
		return err
	}
	p.copy(st) // first, so that the TEE's end closes them, whenever it comes
	if x == nil {
		err = call(ctx, startTimeout, pod.agent.StartContainer, &agentpb.StartContainerRequest{ContainerId: c.id})
	} else {
		err = call(ctx, startTimeout, pod.agent.ExecProcess, execute(pod.policy, c.policy, x.spec, c.id, execID))
	}
	if err != nil {
		st.close()
		return err
	}
	st.start(ctx, p.io.terminal)
	return nil
}

// outputGrace is how long the output of an ended process may take to be copied:
// containerd may be away, and a child may hold the stream open.
const outputGrace = 10 * time.Second

// wait sees a process to its end.
func (s *Service) wait(ctx context.Context, c *container, p *proc, pod *pod, execID string) {
	w, err := pod.agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: c.id, ExecId: execID})
	if err != nil {
		s.lost(c, p, pod, execID, err)
		return
	}
	p.reported.Store(true)
	drained, cancel := context.WithTimeout(ctx, outputGrace)
	p.copying().finish(drained.Done())
	cancel()
	if execID == "" && c.termination != "" {
		s.terminationMessage(ctx, c, pod)
	}
	s.exited(c, execID, p, uint32(w.GetStatus()))
}

// lostStatus is the status of a process of whose end the guest does not tell.
const lostStatus = 255

// lostGrace is how long a lost process's TEE has to end, which says why.
const lostGrace = 5 * time.Second

// lost ends a process that the guest does not wait for: with its TEE, or by itself.
func (s *Service) lost(c *container, p *proc, pod *pod, execID string, err error) {
	p.copying().close()
	late := time.NewTimer(lostGrace)
	defer late.Stop()
	select {
	case <-p.done:
	case <-pod.done:
		s.exited(c, execID, p, killed)
	case <-late.C:
		s.log.Error("the guest does not tell of a process's end, so it is killed and taken for ended", "task", c.id, "exec", execID, "error", err)
		late.Reset(killTimeout + time.Second)
		select { // its end is told even if the guest does not read any more
		case err = <-ask(context.Background(), killTimeout, pod.agent.SignalProcess, &agentpb.SignalProcessRequest{ContainerId: c.id, ExecId: execID, Signal: 9}):
		case <-late.C:
			err = context.DeadlineExceeded
		}
		if err != nil {
			s.log.Warn("killing a lost process", "task", c.id, "exec", execID, "error", err)
		}
		s.exited(c, execID, p, lostStatus)
	}
}
