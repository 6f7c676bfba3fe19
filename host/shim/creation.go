package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// abandonTimeout is how long a Delete waits for a creation that it gives up: containerd
// allows its clean-up 5 seconds.
const abandonTimeout = 4 * time.Second

// creation is a container that the guest is making. The guest goes on with it whatever
// becomes of who asked, so one that is given up is removed once it is made: a name that
// the guest has stays taken.
type creation struct {
	ctx     context.Context // ends with the request, or when the creation is given up
	abandon context.CancelFunc
	done    chan struct{} // closed once the container is among the tasks, or gone
}

// announce registers a container before the guest hears of it.
func (s *Service) announce(ctx context.Context, id string) (*creation, *pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod == nil {
		return nil, nil, status.Error(codes.FailedPrecondition, "the pod's sandbox is not there yet")
	}
	if s.containers[id] != nil || s.creating[id] != nil {
		return nil, nil, status.Errorf(codes.AlreadyExists, "task %s exists", id)
	}
	n := &creation{done: make(chan struct{})}
	n.ctx, n.abandon = context.WithCancel(ctx)
	s.creating[id] = n
	return n, s.pod, nil
}

// keep puts a container that the guest has made among the tasks, unless it was given up.
func (s *Service) keep(n *creation, c *container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.ctx.Err() != nil {
		return false
	}
	delete(s.creating, c.id)
	s.containers[c.id] = c
	close(n.done)
	return true
}

// forget ends a creation of which no container came.
func (s *Service) forget(n *creation, id string) {
	s.mu.Lock()
	delete(s.creating, id)
	s.mu.Unlock()
	close(n.done)
}

// abandon gives up the creation of a container, if it is under way, and waits a while
// for its end.
func (s *Service) abandon(ctx context.Context, id string) bool {
	s.mu.Lock()
	n := s.creating[id]
	if n != nil {
		n.abandon()
	}
	s.mu.Unlock()
	if n == nil {
		return false
	}
	late := time.NewTimer(abandonTimeout)
	defer late.Stop()
	select {
	case <-n.done:
	case <-late.C:
	case <-ctx.Done():
	}
	return true
}

// createContainer has the guest make a container.
func (s *Service) createContainer(ctx context.Context, c *container, spec *specs.Spec) error {
	n, p, err := s.announce(ctx, c.id)
	if err != nil {
		return err
	}
	defer n.abandon() // it was settled, or given up, by then
	req, err := p.request(n.ctx, c, spec)
	if err != nil {
		s.forget(n, c.id)
		return err
	}
	made := make(chan error, 1)
	go func() { made <- s.make(n, c, p, req) }()
	select {
	case err := <-made:
		return err
	case <-n.ctx.Done():
		return errAbandoned
	}
}

var errAbandoned = status.Error(codes.Canceled, "its creation was given up")

// make sees a container's creation to its end, and removes what nobody waits for.
func (s *Service) make(n *creation, c *container, p *pod, req *agentpb.CreateContainerRequest) error {
	err := call(context.WithoutCancel(n.ctx), createTimeout, p.agent.CreateContainer, req)
	if err == nil && s.keep(n, c) {
		return nil
	}
	if err == nil || unanswered(err) && !errors.Is(err, ttrpc.ErrClosed) {
		s.log.Info("removing a container whose creation was given up", "task", c.id, "container", c.policy.Name)
		if err := call(context.Background(), callTimeout, p.agent.RemoveContainer, &agentpb.RemoveContainerRequest{ContainerId: c.id}); err != nil {
			s.log.Warn("removing a container whose creation was given up", "task", c.id, "error", err)
		}
	}
	s.forget(n, c.id)
	if err == nil {
		return errAbandoned
	}
	return fmt.Errorf("creating container %s: %w", c.policy.Name, err)
}

// request makes what the guest is asked for a container, and gives it the files that the
// container mounts.
func (p *pod) request(ctx context.Context, c *container, spec *specs.Spec) (*agentpb.CreateContainerRequest, error) {
	name, err := containerName(spec)
	if err != nil {
		return nil, err
	}
	if c.policy = p.policy.Container(name); c.policy == nil {
		return nil, status.Error(codes.PermissionDenied, undeclared(name).Error())
	}
	for i := range spec.Mounts {
		if f, ok := terminationFile(c.policy, &spec.Mounts[i]); ok {
			c.termination = f
		}
	}
	if err := p.checkDevices(spec); err != nil {
		return nil, err
	}
	p.withoutEdits(c.policy, spec)
	if err := p.copyVolumes(ctx, c.policy, spec); err != nil {
		return nil, err
	}
	return create(p.policy, c.policy, spec, c.id, p.id)
}

// undeclared is the refusal of a container that the owner has not sealed. The guest
// refuses it too; here nothing of it travels first.
func undeclared(name string) *denial.Denial {
	return &denial.Denial{
		Reason: podpolicy.ContainerUndeclared, Component: "shim", Claim: fmt.Sprintf("container %q", name),
		Detail: "the pod was sealed without it (ephemeral containers of kubectl debug never are sealed): put it into the manifest and seal that",
	}
}
