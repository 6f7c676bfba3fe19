package spec

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// The guest's network under QEMU's user-mode networking.
const (
	GuestMAC     = "52:54:00:12:34:56"
	guestIf      = "eth0"
	guestAddress = "10.0.2.15"
	guestGateway = "10.0.2.2"
	guestDNS     = "10.0.2.3"
)

// Plan is everything that coffer run asks of the guest agent to run the pod, in
// the order: Interface, Routes, CreateSandbox, CopyFiles, then each of Init to
// its end, then Containers.
type Plan struct {
	MemoryMiB, VCPUs int
	GracePeriod      time.Duration
	Init, Containers []*Container
	// Notes are for the user: what was accepted with a limit, "path: reason".
	Notes []string

	policy  *podpolicy.Policy
	content map[string]map[string][]byte // volume, path
	env     [][]string                   // by container in pod order; holds secrets
}

// Container is the plan for one container.
type Container struct {
	Name, Image string // Image by digest
	Init        bool
	Stdin, TTY  bool
	Logs        bool   // may its output be read
	Restart     string // "Always", "OnFailure", "Never"
	StopSignal  uint32
	Ports       []Port

	plan   *Plan
	policy *podpolicy.Container
	env    []string
}

// Port is a port that a container listens on.
type Port struct {
	Name     string
	Number   int
	Protocol string // "tcp" or "udp"
}

// finish fills the plan from the finished policy.
func (b *builder) finish(images map[string]*ResolvedImage) error {
	pl := b.plan
	pl.policy = b.policy
	pl.GracePeriod = time.Duration(*b.pod.Spec.TerminationGracePeriodSeconds) * time.Second
	for i, c := range b.pod.All() {
		pc, list := &b.policy.Containers, &pl.Containers
		if c.Init {
			pc, list = &b.policy.InitContainers, &pl.Init
		}
		k := slices.IndexFunc(*pc, func(x podpolicy.Container) bool { return x.Name == c.Name })
		x := &(*pc)[k]
		stop, _ := stopSignal(&images[c.Image].Config.Config)
		out := &Container{
			Name: c.Name, Image: x.Image, Init: c.Init, Stdin: x.Stdin, TTY: x.Terminal, Logs: x.Logs, Restart: x.Restart, StopSignal: stop,
			plan: pl, policy: x, env: pl.env[i],
		}
		for _, p := range c.Ports {
			out.Ports = append(out.Ports, Port{p.Name, int(p.ContainerPort), map[bool]string{true: "udp", false: "tcp"}[p.Protocol == "UDP"]})
		}
		*list = append(*list, out)
	}
	pl.Notes = append(pl.Notes, b.pod.Notes...)
	return b.size(images)
}

// Interface gives the request that configures the guest's network interface.
func (p *Plan) Interface() *agentpb.UpdateInterfaceRequest {
	return &agentpb.UpdateInterfaceRequest{Interface: &agentpb.Interface{
		Name: guestIf, HwAddr: GuestMAC, // with the MTU that it has
		IPAddresses: []*agentpb.IPAddress{{Family: agentpb.IPFamily_v4, Address: guestAddress, Mask: "24"}},
	}}
}

// Routes gives the request that sets the guest's default route.
func (p *Plan) Routes() *agentpb.UpdateRoutesRequest {
	return &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: []*agentpb.Route{{Device: guestIf, Gateway: guestGateway}}}}
}

// CreateSandbox gives the request that creates the sandbox.
func (p *Plan) CreateSandbox(sandboxID string) *agentpb.CreateSandboxRequest {
	return p.policy.CreateSandboxRequest(sandboxID, []string{"nameserver " + guestDNS})
}

// CopyFiles calls f with the requests that deliver the volumes' files, in
// order, until f fails.
func (p *Plan) CopyFiles(f func(*agentpb.CopyFileRequest) error) error {
	for i := range p.policy.Volumes {
		v := &p.policy.Volumes[i]
		if v.Kind != podpolicy.VolumeFiles {
			continue
		}
		for _, dir := range append([]string{""}, v.Dirs()...) {
			if err := f(podpolicy.CopyDirRequest(v, dir)); err != nil {
				return fmt.Errorf("copying volume %s: %w", v.Name, err)
			}
		}
		for _, name := range v.FileNames() {
			for _, r := range podpolicy.CopyFileRequests(v, name, p.content[v.Name][name]) {
				if err := f(r); err != nil {
					return fmt.Errorf("copying volume %s: %w", v.Name, err)
				}
			}
		}
	}
	return nil
}

// All gives the containers in the order in which they are first created.
func (p *Plan) All() []*Container { return append(slices.Clone(p.Init), p.Containers...) }

// Create gives the request that creates the container under a new id. It may
// hold values of Secrets: do not log it.
func (c *Container) Create(containerID, sandboxID string) *agentpb.CreateContainerRequest {
	return proto.CloneOf(c.plan.policy.CreateContainerRequest(c.policy, containerID, sandboxID, c.env)) // shares nothing with the policy
}

// Exec gives the request that starts args in the container. Whether the guest
// allows it is the policy's to say.
func (c *Container) Exec(containerID, execID string, args []string, tty bool) *agentpb.ExecProcessRequest {
	return proto.CloneOf(c.plan.policy.ExecProcessRequest(c.policy, containerID, execID, args, c.env, tty))
}

// Policy gives the pod's policy.
func (p *Plan) Policy() *podpolicy.Policy { return p.policy }

// Policy gives the container's entry in the policy.
func (c *Container) Policy() *podpolicy.Container { return c.policy }

// Env gives the container's whole environment, NAME=value in the policy's order. It
// may hold values of Secrets: do not log it.
func (c *Container) Env() []string { return slices.Clone(c.env) }

// Content gives the content of a volume's files by path; not to be changed.
func (p *Plan) Content(volume string) map[string][]byte { return p.content[volume] }

// HasFiles reports whether a volume of the pod holds files that CopyFiles
// delivers.
func (p *Plan) HasFiles(volume string) bool { return len(p.content[volume]) > 0 }
