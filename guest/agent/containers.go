package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/container"
	"github.com/cofferproject/coffer/guest/proc/seccomp"
)

// terminationLogDir holds the containers' termination messages.
const terminationLogDir = "/run/coffer/termination"

// maxTerminationLog is what GetDiagnosticData gives, as published.
const maxTerminationLog = 4 << 10

// CreateContainer pulls the policy's image and builds the container from policy
// and image; the request had only to agree.
func (s *Server) CreateContainer(ctx context.Context, _ *agentpb.CreateContainerRequest) (*emptypb.Empty, error) {
	g := grantOf(ctx)
	c := g.Container
	if c == nil {
		return nil, invalid("no container")
	}
	if err := s.namesOnce(); err != nil {
		return nil, err
	}
	image, err := s.opt.Images.Prepare(ctx, c)
	if err != nil {
		if _, ok := denial.As(err); ok {
			return nil, s.deny("CreateContainerRequest", err)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// A code of its own, so that who asked can tell a bad image or registry
		// from a guest that does not work.
		return nil, status.Error(codes.FailedPrecondition, s.public(err))
	}
	pulled := time.Now()
	cfg, err := s.configure(ctx, g, image)
	if err != nil {
		return nil, err
	}
	limits := container.Limits{
		MemoryBytes: c.Resources.MemoryBytes, CPUQuota: c.Resources.CPUQuota, CPUPeriod: c.Resources.CPUPeriod,
		CPUShares: c.Resources.CPUShares, Pids: c.Resources.Pids,
	}
	if _, err := s.opt.Runtime.Create(ctx, g.ContainerID, cfg, limits, g.Stdin); err != nil {
		_ = os.Remove(cfg.TerminationLog)
		return nil, fmt.Errorf("container %s: %w", c.Name, err)
	}
	s.log.Info("container created", "container", c.Name, "duration", time.Since(pulled))
	return &emptypb.Empty{}, nil
}

// public gives what the host may read of a failed pull. The error as it is may
// hold a registry's words, a signed address or names of an encrypted layer's
// files: it is for the console of a debug guest.
func (s *Server) public(err error) string {
	if s.opt.ShowDenials {
		s.log.Warn("pull in full", "error", err)
	}
	var p interface{ Public() string }
	if errors.As(err, &p) {
		return p.Public()
	}
	return "pulling the image failed"
}

// configure turns the policy's container into the runtime's terms.
func (s *Server) configure(ctx context.Context, g *podpolicy.Grant, image *Image) (*container.Config, error) {
	c := g.Container
	p, err := process(c, g.Args, g.Env, g.Terminal)
	if err != nil {
		return nil, s.deny("CreateContainerRequest", err)
	}
	cfg := &container.Config{
		Layers: image.Layers, Etc: etcDir, Shm: podpolicy.ShmDir,
		Volumes: c.ImageVolumes, Masked: c.MaskedPaths, ReadOnlyPaths: c.ReadOnlyPaths, ReadOnlyRoot: c.ReadOnly,
		Process: p,
	}
	for _, v := range g.Volumes {
		if err := s.openVolume(ctx, v); err != nil {
			if _, ok := denial.As(err); ok {
				return nil, s.deny("CreateContainerRequest", err)
			}
			return nil, err
		}
	}
	for _, m := range c.Mounts {
		v := s.opt.Policy.Volume(m.Volume)
		if v == nil {
			return nil, invalid("container %s: no volume %s", c.Name, m.Volume)
		}
		files := v.Kind != podpolicy.VolumeEmptyDir && v.Kind != podpolicy.VolumeDisk
		cfg.Mounts = append(cfg.Mounts, container.Mount{
			Source: v.Path(), SubPath: m.SubPath, Destination: m.Destination,
			// Verified files stay what they are for every container of the pod.
			ReadOnly: m.ReadOnly || files, MakeSubPath: !files,
		})
	}
	for _, d := range c.Devices {
		number, err := s.opt.Disks.Device(s.opt.Policy.Volume(d.Volume))
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", c.Name, err)
		}
		cfg.Devices = append(cfg.Devices, container.Device{Path: d.Path, Number: number, ReadOnly: d.ReadOnly})
	}
	if err := os.MkdirAll(terminationLogDir, 0o755); err != nil {
		return nil, fmt.Errorf("making termination log: %w", err)
	}
	cfg.TerminationLog, cfg.TerminationPath = terminationLog(g.ContainerID), c.TerminationPath()
	if err := os.WriteFile(cfg.TerminationLog, nil, 0o666); err != nil {
		return nil, fmt.Errorf("making termination log: %w", err)
	}
	if err := os.Chmod(cfg.TerminationLog, 0o666); err != nil {
		return nil, fmt.Errorf("making termination log: %w", err)
	}
	return cfg, nil
}

func terminationLog(containerID string) string {
	return filepath.Join(terminationLogDir, filepath.Base(containerID))
}

// process gives what any process of c is allowed, running args.
func process(c *podpolicy.Container, args, env []string, terminal bool) (container.Process, error) {
	p := container.Process{
		Args: args, Env: env, Cwd: c.Cwd, Terminal: terminal,
		User: container.User{
			Spec: c.User.Image, UID: c.User.UID, GID: c.User.GID, Groups: c.User.AdditionalGIDs, NonRoot: c.User.NonRoot,
		},
		Capabilities: c.Capabilities, NoNewPrivileges: c.NoNewPrivileges,
	}
	switch c.Seccomp {
	case "unconfined":
	case "runtime-default":
		code, err := seccomp.RuntimeDefault(c.Capabilities).Compile()
		if err != nil {
			return p, err
		}
		p.Seccomp = code
	default:
		return p, &denial.Denial{
			Reason: SeccompUnsupported, Component: "guest-agent", Claim: fmt.Sprintf("containers[%s].seccomp", c.Name),
			Measured: c.Seccomp, Expected: "unconfined or runtime-default", Source: "guest image",
		}
	}
	return p, nil
}

// SeccompUnsupported refuses a profile that the guest does not have.
const SeccompUnsupported denial.Reason = "seccomp-unsupported"

// container finds the grant's container.
func (s *Server) container(ctx context.Context) (*container.Container, *podpolicy.Grant, error) {
	g := grantOf(ctx)
	c, ok := s.opt.Runtime.Container(g.ContainerID)
	if !ok {
		return nil, nil, invalid("no container %q", g.ContainerID)
	}
	return c, g, nil
}

// task finds the grant's process.
func (s *Server) task(ctx context.Context) (*container.Container, *container.Task, *podpolicy.Grant, error) {
	c, g, err := s.container(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	t, ok := c.Task(g.ExecID)
	if !ok {
		return nil, nil, nil, status.Errorf(codes.NotFound, "no process %q", g.ExecID)
	}
	return c, t, g, nil
}

// StartContainer executes the container's command.
func (s *Server) StartContainer(ctx context.Context, _ *agentpb.StartContainerRequest) (*emptypb.Empty, error) {
	c, t, g, err := s.task(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := c.Start(ctx); err != nil {
		if errors.Is(err, container.ErrCommandNotFound) {
			return nil, status.Error(codes.NotFound, err.Error())
		}
		return nil, err
	}
	if g.Container != nil && !g.Container.Logs {
		t.Drain()
	}
	s.log.Info("container started", "duration", time.Since(began))
	if s.opt.Started != nil {
		s.opt.Started()
	}
	return &emptypb.Empty{}, nil
}

// RemoveContainer ends the container, if it runs, and deletes what it wrote.
func (s *Server) RemoveContainer(ctx context.Context, req *agentpb.RemoveContainerRequest) (*emptypb.Empty, error) {
	c, g, err := s.container(ctx)
	if err != nil {
		return nil, err
	}
	if t := req.GetTimeout(); t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(t)*time.Second)
		defer cancel()
	}
	if err := c.Remove(ctx); err != nil {
		return nil, err
	}
	_ = os.Remove(terminationLog(g.ContainerID))
	return &emptypb.Empty{}, nil
}

// ExecProcess starts another process in a container.
func (s *Server) ExecProcess(ctx context.Context, _ *agentpb.ExecProcessRequest) (*emptypb.Empty, error) {
	c, g, err := s.container(ctx)
	if err != nil {
		return nil, err
	}
	p, err := process(g.Container, g.Args, g.Env, g.Terminal)
	if err != nil {
		return nil, s.deny("ExecProcessRequest", err)
	}
	if err := c.Exec(ctx, g.ExecID, p, g.Stdin); err != nil {
		if errors.Is(err, container.ErrCommandNotFound) {
			return nil, status.Error(codes.NotFound, err.Error())
		}
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// UpdateContainer changes CPU and memory limits.
func (s *Server) UpdateContainer(ctx context.Context, req *agentpb.UpdateContainerRequest) (*emptypb.Empty, error) {
	c, _, err := s.container(ctx)
	if err != nil {
		return nil, err
	}
	r := req.GetResources()
	err = c.Update(container.Limits{
		MemoryBytes: r.GetMemory().GetLimit(),
		CPUQuota:    r.GetCPU().GetQuota(), CPUPeriod: r.GetCPU().GetPeriod(), CPUShares: r.GetCPU().GetShares(),
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// StatsContainer reads the container's usage.
func (s *Server) StatsContainer(ctx context.Context, _ *agentpb.StatsContainerRequest) (*agentpb.StatsContainerResponse, error) {
	c, _, err := s.container(ctx)
	if err != nil {
		return nil, err
	}
	return &agentpb.StatsContainerResponse{CgroupStats: c.Stats()}, nil
}

// PauseContainer freezes a container.
func (s *Server) PauseContainer(ctx context.Context, _ *agentpb.PauseContainerRequest) (*emptypb.Empty, error) {
	c, _, err := s.container(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.Pause(); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// ResumeContainer thaws a container.
func (s *Server) ResumeContainer(ctx context.Context, _ *agentpb.ResumeContainerRequest) (*emptypb.Empty, error) {
	c, _, err := s.container(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.Resume(); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// GetDiagnosticData gives a container's termination message.
func (s *Server) GetDiagnosticData(ctx context.Context, req *agentpb.GetDiagnosticDataRequest) (*agentpb.GetDiagnosticDataResponse, error) {
	if req.GetLogType() != "termination_log" {
		return nil, invalid("log type %q", req.GetLogType())
	}
	f, err := os.Open(terminationLog(grantOf(ctx).ContainerID))
	if err != nil {
		return nil, invalid("no container %q", req.GetContainerId())
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTerminationLog))
	if err != nil {
		return nil, fmt.Errorf("reading termination log: %w", err)
	}
	return &agentpb.GetDiagnosticDataResponse{Data: string(b)}, nil
}
