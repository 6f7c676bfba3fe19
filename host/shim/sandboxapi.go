package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cofferproject/coffer/api/agentpb"
)

// The sandbox API (containerd.runtime.sandbox.v1.Sandbox): the second way to make a pod.
// containerd takes it for a runtime handler with sandboxer = "shim". The pod comes as
// the CRI's configuration instead of a bundle; its containers are tasks as ever, on the
// socket of the same shim.
var _ sandboxapi.TTRPCSandboxService = (*Service)(nil)

// States of a sandbox, by the names that containerd reads.
const (
	sandboxReady    = "SANDBOX_READY"
	sandboxNotReady = "SANDBOX_NOTREADY"
)

// answerGrace is how long the process stays after its last answer: ttrpc may take a
// connection whose only request is being answered for an idle one, and close it.
const answerGrace = 100 * time.Millisecond

// CreateSandbox takes a pod's configuration. The TEE is launched by StartSandbox: what
// fails between the two has containerd forget the pod without a further call.
func (s *Service) CreateSandbox(_ context.Context, r *sandboxapi.CreateSandboxRequest) (*sandboxapi.CreateSandboxResponse, error) {
	if r.SandboxID != s.id {
		return nil, notFound("this shim is sandbox %s's", s.id)
	}
	spec, err := ofRequest(r)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked != nil || s.pod != nil {
		return nil, status.Error(codes.AlreadyExists, "this shim has its pod")
	}
	s.asked = spec
	return &sandboxapi.CreateSandboxResponse{}, nil
}

// ofRequest reads what CreateSandbox says of the pod. A client other than the CRI has
// no configuration, only annotations.
func ofRequest(r *sandboxapi.CreateSandboxRequest) (*podSpec, error) {
	c := &criConfig{annotations: map[string]string{}}
	if o := r.Options; o != nil && len(o.Value) > 0 {
		if o.TypeUrl != criConfigType {
			return nil, fmt.Errorf("options are %.100q, want %s", o.TypeUrl, criConfigType)
		}
		var err error
		if c, err = parseCRIConfig(o.Value); err != nil {
			return nil, err
		}
	}
	for k, v := range r.Annotations {
		c.annotations[k] = v
	}
	return ofConfig(c, r.SandboxID, r.NetnsPath), nil
}

// StartSandbox launches the TEE.
func (s *Service) StartSandbox(ctx context.Context, r *sandboxapi.StartSandboxRequest) (*sandboxapi.StartSandboxResponse, error) {
	s.mu.Lock()
	spec := s.asked
	s.mu.Unlock()
	if spec == nil || r.SandboxID != s.id {
		return nil, notFound("no sandbox %s was created", r.SandboxID)
	}
	shown, err := spec.shown()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	box := &container{proc: newProc(stdio{}), id: s.id, bundle: s.bundle, sandbox: true, silent: true, execs: map[string]*exec{}}
	box.move(task.Status_CREATED, task.Status_RUNNING)
	if err := s.hold(ctx, box, s.options, spec); err != nil {
		s.log.Error("start failed", "sandbox", s.id, "error", err)
		return nil, err
	}
	s.log.Info("started", "sandbox", s.id, "duration", time.Since(began))
	return &sandboxapi.StartSandboxResponse{Pid: s.pidOf(), CreatedAt: timestamppb.New(box.createdAt), Spec: shown}, nil
}

// specType is the type under which containerd reads an OCI spec, which is JSON.
const specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// shown is what containerd shows its plug-ins (NRI) as the sandbox's spec.
func (p *podSpec) shown() (*anypb.Any, error) {
	s := specs.Spec{Version: specs.Version, Linux: &specs.Linux{CgroupsPath: p.cgroup}}
	if p.netns != "" {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: p.netns}}
	}
	b, err := json.Marshal(&s)
	return &anypb.Any{TypeUrl: specType, Value: b}, err
}

// box gives the sandbox that StartSandbox has started.
func (s *Service) box(id string) (*container, *pod, error) {
	c, p, err := s.find(id)
	if err != nil {
		return nil, nil, err
	}
	if !c.sandbox {
		return nil, nil, notFound("%s is no sandbox", id)
	}
	return c, p, nil
}

// Platform says what a pod's containers run on.
func (s *Service) Platform(context.Context, *sandboxapi.PlatformRequest) (*sandboxapi.PlatformResponse, error) {
	return &sandboxapi.PlatformResponse{Platform: &types.Platform{OS: "linux", Architecture: runtime.GOARCH}}, nil
}

// StopSandbox ends the TEE and removes what the pod has on the node. One that has ended
// is stopped already.
func (s *Service) StopSandbox(ctx context.Context, r *sandboxapi.StopSandboxRequest) (*sandboxapi.StopSandboxResponse, error) {
	if r.SandboxID == s.id {
		s.abort()
	}
	c, p, err := s.box(r.SandboxID)
	if err != nil {
		if r.SandboxID == s.id {
			return &sandboxapi.StopSandboxResponse{}, nil // it was never started
		}
		return nil, err
	}
	if r.TimeoutSecs > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.TimeoutSecs)*time.Second)
		defer cancel()
	}
	if err := s.stopPod(ctx, c, p); err != nil {
		return nil, err
	}
	s.end() // containerd may take a minute until it has the sandbox shut down
	return &sandboxapi.StopSandboxResponse{}, nil
}

// WaitSandbox waits for the TEE's end.
func (s *Service) WaitSandbox(ctx context.Context, r *sandboxapi.WaitSandboxRequest) (*sandboxapi.WaitSandboxResponse, error) {
	c, _, err := s.box(r.SandboxID)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	code, at := c.result()
	return &sandboxapi.WaitSandboxResponse{ExitStatus: code, ExitedAt: timestamppb.New(at)}, nil
}

// SandboxStatus tells of the sandbox; it is what containerd recovers a pod by, one too
// that it was starting when it ended itself.
func (s *Service) SandboxStatus(_ context.Context, r *sandboxapi.SandboxStatusRequest) (*sandboxapi.SandboxStatusResponse, error) {
	c, p, err := s.box(r.SandboxID)
	if err != nil {
		if r.SandboxID == s.id {
			return &sandboxapi.SandboxStatusResponse{SandboxID: s.id, State: sandboxNotReady}, nil
		}
		return nil, err
	}
	out := &sandboxapi.SandboxStatusResponse{SandboxID: c.id, Pid: p.pid, State: sandboxReady, CreatedAt: timestamppb.New(c.createdAt)}
	word := "running"
	if c.state() == task.Status_STOPPED {
		_, at := c.result()
		out.State, out.ExitedAt, word = sandboxNotReady, timestamppb.New(at), "stopped"
	}
	if r.Verbose {
		b, err := json.Marshal(map[string]any{"pid": p.pid, "processStatus": word, "runtimeType": runtimeName})
		if err != nil {
			return nil, err
		}
		out.Info = map[string]string{"info": string(b)}
	}
	return out, nil
}

// PingSandbox fails when the TEE has ended.
func (s *Service) PingSandbox(_ context.Context, r *sandboxapi.PingRequest) (*sandboxapi.PingResponse, error) {
	c, _, err := s.box(r.SandboxID)
	if err != nil {
		return nil, err
	}
	if c.state() == task.Status_STOPPED {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %s has ended", c.id)
	}
	return &sandboxapi.PingResponse{}, nil
}

// ShutdownSandbox removes what there is of the pod and ends the process.
func (s *Service) ShutdownSandbox(_ context.Context, r *sandboxapi.ShutdownSandboxRequest) (*sandboxapi.ShutdownSandboxResponse, error) {
	if r.SandboxID != s.id {
		return nil, notFound("this shim is sandbox %s's", s.id)
	}
	s.end()
	time.AfterFunc(answerGrace, s.stop)
	return &sandboxapi.ShutdownSandboxResponse{}, nil
}

// SandboxMetrics tells what the sandbox itself uses in the guest: nothing, as for the
// sandbox's task. The TEE's own share is in the pod's control group.
func (s *Service) SandboxMetrics(_ context.Context, r *sandboxapi.SandboxMetricsRequest) (*sandboxapi.SandboxMetricsResponse, error) {
	c, _, err := s.box(r.SandboxID)
	if err != nil {
		return nil, err
	}
	name, value, err := metrics(&agentpb.CgroupStats{}, unifiedCgroups())
	if err != nil {
		return nil, err
	}
	return &sandboxapi.SandboxMetricsResponse{Metrics: &types.Metric{
		Timestamp: timestamppb.Now(), ID: c.id, Data: &anypb.Any{TypeUrl: name, Value: value},
	}}, nil
}

// UpdateSandbox would change a pod's size, which is measured. containerd goes on
// without it.
func (s *Service) UpdateSandbox(context.Context, *sandboxapi.UpdateSandboxRequest) (*sandboxapi.UpdateSandboxResponse, error) {
	return nil, status.Error(codes.Unimplemented, "a sandbox in a TEE keeps its size: it is measured")
}
