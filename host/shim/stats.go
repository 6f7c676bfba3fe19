package shim

import (
	"context"
	"errors"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cofferproject/coffer/api/agentpb"
)

// containerd asks all tasks of the node one after the other, and the kubelet waits two
// minutes for all of them: one pod may not take long.
const (
	statsTimeout = 2 * time.Second
	// statsRetry is how often a guest that did not answer is asked again.
	statsRetry = 10 * time.Second
)

// Stats tells what a container uses, in the terms of the host's control groups.
func (s *Service) Stats(ctx context.Context, r *api.StatsRequest) (*api.StatsResponse, error) {
	c, pod, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	g := &agentpb.CgroupStats{}
	if !c.sandbox {
		if g, err = pod.stats(ctx, c.id); err != nil {
			return nil, err
		}
	}
	name, value, err := metrics(g, unifiedCgroups())
	if err != nil {
		return nil, err
	}
	return &api.StatsResponse{Stats: &anypb.Any{TypeUrl: name, Value: value}}, nil
}

// errSilent stands for statistics that the guest did not give in time.
var errSilent = status.Error(codes.Unavailable, "the guest does not answer: no statistics until it does")

// stats asks the guest what a container uses. After a time-out nobody waits for the guest
// any more until it has answered again.
func (p *pod) stats(ctx context.Context, id string) (*agentpb.CgroupStats, error) {
	if p.silent.Load() {
		return nil, errSilent
	}
	g, err := p.askStats(ctx, id)
	if errors.Is(err, errSilent) && p.silent.CompareAndSwap(false, true) {
		p.log.Warn("the guest did not tell its statistics in time", "task", id, "timeout", statsTimeout)
		go p.awaitStats(context.WithoutCancel(ctx), id)
	}
	return g, err
}

// askStats asks once. The call has a goroutine of its own: where the guest does not read,
// ttrpc waits without a bound for its turn to write.
func (p *pod) askStats(ctx context.Context, id string) (*agentpb.CgroupStats, error) {
	type answer struct {
		stats *agentpb.CgroupStats
		err   error
	}
	late, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	got := make(chan answer, 1)
	go func() {
		st, err := p.agent.StatsContainer(late, &agentpb.StatsContainerRequest{ContainerId: id})
		got <- answer{st.GetCgroupStats(), err}
	}()
	var a answer
	select {
	case a = <-got:
	case <-late.Done():
		a.err = late.Err()
	}
	switch {
	case ctx.Err() != nil: // the caller went away first: that says nothing of the guest
		return nil, ctx.Err()
	case errors.Is(late.Err(), context.DeadlineExceeded):
		return nil, errSilent
	case a.err != nil:
		return nil, a.err
	}
	return a.stats, nil
}

// awaitStats asks a silent guest again and again, until it answers in time or the TEE has
// ended. It is one goroutine for a pod, however long a call hangs.
func (p *pod) awaitStats(ctx context.Context, id string) {
	t := time.NewTicker(statsRetry)
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-t.C:
		}
		late, cancel := context.WithTimeout(ctx, statsTimeout)
		_, _ = p.agent.StatsContainer(late, &agentpb.StatsContainerRequest{ContainerId: id}) // a refusal is an answer too
		silent := late.Err() != nil
		cancel()
		if !silent {
			p.silent.Store(false)
			return
		}
	}
}
