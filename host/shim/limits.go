package shim

import (
	"context"
	"encoding/json"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
)

// Update changes a container's limits, where its policy allows that.
func (s *Service) Update(ctx context.Context, r *api.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, pod, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	if c.sandbox {
		return &emptypb.Empty{}, nil // the VM's size is measured: it stays
	}
	res := new(specs.LinuxResources)
	if err := json.Unmarshal(r.Resources.GetValue(), res); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "reading the resources: %v", err)
	}
	err = call(ctx, callTimeout, pod.agent.UpdateContainer, &agentpb.UpdateContainerRequest{ContainerId: c.id, Resources: resources(c.policy, res)})
	return &emptypb.Empty{}, err
}

// Pause freezes a container.
func (s *Service) Pause(ctx context.Context, r *api.PauseRequest) (*emptypb.Empty, error) {
	c, pod, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	if c.sandbox {
		return nil, status.Error(codes.FailedPrecondition, "the sandbox cannot be paused")
	}
	if err := call(ctx, callTimeout, pod.agent.PauseContainer, &agentpb.PauseContainerRequest{ContainerId: c.id}); err != nil {
		return nil, err
	}
	c.move(task.Status_RUNNING, task.Status_PAUSED)
	s.events.send(&events.TaskPaused{ContainerID: c.id})
	return &emptypb.Empty{}, nil
}

// Resume thaws a container.
func (s *Service) Resume(ctx context.Context, r *api.ResumeRequest) (*emptypb.Empty, error) {
	c, pod, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	if c.sandbox {
		return nil, status.Error(codes.FailedPrecondition, "the sandbox cannot be paused")
	}
	if err := call(ctx, callTimeout, pod.agent.ResumeContainer, &agentpb.ResumeContainerRequest{ContainerId: c.id}); err != nil {
		return nil, err
	}
	c.move(task.Status_PAUSED, task.Status_RUNNING)
	s.events.send(&events.TaskResumed{ContainerID: c.id})
	return &emptypb.Empty{}, nil
}
