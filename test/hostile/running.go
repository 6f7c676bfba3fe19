package hostile

import (
	"context"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/owner/spec"
)

// Start runs the pod as its owner meant it: init containers to their end, then
// the containers. Images may be pulled meanwhile: ctx bounds it.
func (t *Target) Start(ctx context.Context) error {
	for _, c := range t.Plan.All() {
		id := c.Name + "-genuine"
		if _, err := t.Agent.CreateContainer(ctx, c.Create(id, t.SandboxID)); err != nil {
			return fmt.Errorf("creating container %s as its owner meant: %w", c.Name, err)
		}
		t.IDs[c.Name] = id
		if _, err := t.Agent.StartContainer(ctx, &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
			return fmt.Errorf("starting container %s as its owner meant: %w", c.Name, err)
		}
		if !c.Init {
			continue
		}
		w, err := t.Agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: id})
		if err != nil {
			return fmt.Errorf("waiting for init container %s: %w", c.Name, err)
		}
		if w.Status != 0 {
			return fmt.Errorf("init container %s ended with %d", c.Name, w.Status)
		}
	}
	return nil
}

// Running attacks a running pod. IDs must name the running containers. The
// workload must not notice; Alive tells.
func (t *Target) Running(ctx context.Context) []Result { return t.run(ctx, whileRunning()) }

// Alive reports an error if a container of the pod no longer answers.
func (t *Target) Alive(ctx context.Context) error {
	for _, c := range t.Plan.Containers {
		cctx, cancel := context.WithTimeout(ctx, t.CallTimeout)
		_, err := t.Agent.StatsContainer(cctx, &agentpb.StatsContainerRequest{ContainerId: t.IDs[c.Name]})
		cancel()
		if err != nil {
			return fmt.Errorf("container %s: %w", c.Name, err)
		}
	}
	return nil
}

// app is the container that Running attacks.
func (t *Target) app() (*spec.Container, string) {
	c := t.Plan.Containers[0]
	return c, t.IDs[c.Name]
}

func whileRunning() []Attack {
	exec := func(name string, args ...string) Attack {
		return Attack{"exec: " + name, podpolicy.ExecDenied, ".exec", func(ctx context.Context, t *Target) error {
			c, id := t.app()
			for _, x := range c.Policy().Exec {
				if x.Any {
					return errNothingToAttack
				}
			}
			_, err := t.Agent.ExecProcess(ctx, c.Exec(id, "hostile", args, false))
			return err
		}}
	}
	return append(append(outside(), ofProbes()...),
		exec("a shell", "/bin/sh"),
		exec("the environment", "/usr/bin/env"),
		Attack{"a second container of the same name", podpolicy.ContainerRunning, "containers[", func(ctx context.Context, t *Target) error {
			c, _ := t.app()
			_, err := t.Agent.CreateContainer(ctx, c.Create("hostile2", t.SandboxID))
			return err
		}},
		Attack{"an extra container", podpolicy.ContainerUndeclared, "containers[extra]", func(ctx context.Context, t *Target) error {
			c, _ := t.app()
			r := c.Create("hostile3", t.SandboxID)
			r.OCI.Annotations[podpolicy.AnnotationName] = "extra"
			_, err := t.Agent.CreateContainer(ctx, r)
			return err
		}},
		Attack{"an extra container of another image", podpolicy.ImageMismatch, "image", func(ctx context.Context, t *Target) error {
			c, _ := t.app()
			r := c.Create("hostile4", t.SandboxID)
			r.Storages[0].Source = "registry.example/evil@sha256:" + strings.Repeat("0", 64)
			_, err := t.Agent.CreateContainer(ctx, r)
			return err
		}},
		Attack{"the container's creation, replayed", podpolicy.Replayed, "container_id", func(ctx context.Context, t *Target) error {
			c, id := t.app()
			_, err := t.Agent.CreateContainer(ctx, c.Create(id, t.SandboxID))
			return err
		}},
		Attack{"the container's start, replayed", podpolicy.Replayed, "containers[", func(ctx context.Context, t *Target) error {
			_, id := t.app()
			_, err := t.Agent.StartContainer(ctx, &agentpb.StartContainerRequest{ContainerId: id})
			return err
		}},
		Attack{"an init container, again", podpolicy.Replayed, "init_containers[", func(ctx context.Context, t *Target) error {
			if len(t.Plan.Init) == 0 {
				return errNothingToAttack
			}
			_, err := t.Agent.CreateContainer(ctx, t.Plan.Init[0].Create("hostile5", t.SandboxID))
			return err
		}},
		Attack{"a file, again", podpolicy.Replayed, "volumes[", copying(func(*agentpb.CopyFileRequest) {})},
		Attack{"a network interface, late", podpolicy.OutOfOrder, "interface[", func(ctx context.Context, t *Target) error {
			r := t.Plan.Interface()
			r.Interface.Name, r.Interface.HwAddr = "eth1", "52:54:00:00:00:01"
			_, err := t.Agent.UpdateInterface(ctx, r)
			return err
		}},
		Attack{"routes, late", podpolicy.OutOfOrder, "routes", func(ctx context.Context, t *Target) error {
			_, err := t.Agent.UpdateRoutes(ctx, t.Plan.Routes())
			return err
		}},
		Attack{"a signal that opens debuggers", podpolicy.SignalDenied, ".signals", func(ctx context.Context, t *Target) error {
			c, id := t.app()
			if c.StopSignal == 10 {
				return errNothingToAttack
			}
			_, err := t.Agent.SignalProcess(ctx, &agentpb.SignalProcessRequest{ContainerId: id, Signal: 10})
			return err
		}},
		Attack{"input where there is none", podpolicy.StdinDenied, ".stdin", func(ctx context.Context, t *Target) error {
			c, id := t.app()
			if c.Stdin {
				return errNothingToAttack
			}
			_, err := t.Agent.WriteStdin(ctx, &agentpb.WriteStreamRequest{ContainerId: id, Data: []byte("x\n")})
			return err
		}},
		Attack{"freeze a container", podpolicy.RequestNotAllowed, "PauseContainerRequest", func(ctx context.Context, t *Target) error {
			_, id := t.app()
			_, err := t.Agent.PauseContainer(ctx, &agentpb.PauseContainerRequest{ContainerId: id})
			return err
		}},
		Attack{"other limits", podpolicy.RequestNotAllowed, ".resources", func(ctx context.Context, t *Target) error {
			_, id := t.app()
			_, err := t.Agent.UpdateContainer(ctx, &agentpb.UpdateContainerRequest{ContainerId: id, Resources: &agentpb.LinuxResources{}})
			return err
		}},
		Attack{"the output of a process that is not there", podpolicy.UnknownProcess, ".exec_id", func(ctx context.Context, t *Target) error {
			_, id := t.app()
			_, err := t.Agent.ReadStdout(ctx, &agentpb.ReadStreamRequest{ContainerId: id, ExecId: "hostile", Len: 1})
			return err
		}},
	)
}
