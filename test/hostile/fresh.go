package hostile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/owner/spec"
)

// Fresh attacks a guest in which nothing was created yet, then makes network
// and sandbox as the owner meant, and attacks again before the first container.
// It leaves the guest ready for Start. No attack may make the guest fetch a key.
func (t *Target) Fresh(ctx context.Context) ([]Result, error) {
	out := t.run(ctx, beforeSandbox())
	if err := t.sandbox(ctx); err != nil {
		return out, err
	}
	out = append(out, t.run(ctx, beforeFiles())...)
	if err := t.files(ctx); err != nil {
		return out, err
	}
	return append(out, t.run(ctx, beforeContainers())...), nil
}

// SetUp makes network, sandbox and files as the owner meant, without any attack.
func (t *Target) SetUp(ctx context.Context) error {
	if err := t.sandbox(ctx); err != nil {
		return err
	}
	return t.files(ctx)
}

func (t *Target) sandbox(ctx context.Context) error {
	if !t.NoNetwork {
		if _, err := t.Agent.UpdateInterface(ctx, t.Plan.Interface()); err != nil {
			return fmt.Errorf("the owner's own UpdateInterface: %w", err)
		}
		if _, err := t.Agent.UpdateRoutes(ctx, t.Plan.Routes()); err != nil {
			return fmt.Errorf("the owner's own UpdateRoutes: %w", err)
		}
	}
	if _, err := t.Agent.CreateSandbox(ctx, t.Plan.CreateSandbox(t.SandboxID)); err != nil {
		return fmt.Errorf("the owner's own CreateSandbox: %w", err)
	}
	return nil
}

func (t *Target) files(ctx context.Context) error {
	return t.Plan.CopyFiles(func(r *agentpb.CopyFileRequest) error {
		_, err := t.Agent.CopyFile(ctx, r)
		return err
	})
}

// victim is the container that is created first.
func (t *Target) victim() *spec.Container { return t.Plan.All()[0] }

// creating changes the first container's request.
func creating(change func(*agentpb.CreateContainerRequest)) func(context.Context, *Target) error {
	return func(ctx context.Context, t *Target) error {
		r := t.victim().Create("hostile1", t.SandboxID)
		before := proto.CloneOf(r)
		if change(r); proto.Equal(r, before) {
			return errNothingToAttack
		}
		_, err := t.Agent.CreateContainer(ctx, r)
		return err
	}
}

// copying changes the first request that delivers a file.
func copying(change func(*agentpb.CopyFileRequest)) func(context.Context, *Target) error {
	return func(ctx context.Context, t *Target) error {
		var first *agentpb.CopyFileRequest
		stop := errors.New("stop")
		err := t.Plan.CopyFiles(func(r *agentpb.CopyFileRequest) error {
			if r.FileMode&0o170000 == 0o100000 {
				first = proto.CloneOf(r)
				return stop
			}
			return nil
		})
		if first == nil {
			return errors.Join(err, errNothingToAttack)
		}
		change(first)
		_, err = t.Agent.CopyFile(ctx, first)
		return err
	}
}

func beforeSandbox() []Attack {
	return []Attack{
		{"create a container before the sandbox", podpolicy.OutOfOrder, "CreateContainerRequest", creating(func(r *agentpb.CreateContainerRequest) { r.ContainerId = "early" })},
		{"copy a file before the sandbox", podpolicy.OutOfOrder, "CopyFileRequest", func(ctx context.Context, t *Target) error {
			_, err := t.Agent.CopyFile(ctx, &agentpb.CopyFileRequest{Path: podpolicy.SharedDir + "/x"})
			return err
		}},
		{"a sandbox with a hook of the host", podpolicy.UnexpectedField, "guest_hook_path", func(ctx context.Context, t *Target) error {
			r := t.Plan.CreateSandbox(t.SandboxID)
			r.GuestHookPath = "/run/kata-containers/shared"
			_, err := t.Agent.CreateSandbox(ctx, r)
			return err
		}},
		{"a sandbox with a kernel module", podpolicy.UnexpectedField, "kernel_modules", func(ctx context.Context, t *Target) error {
			r := t.Plan.CreateSandbox(t.SandboxID)
			r.KernelModules = []*agentpb.KernelModule{{Name: "vfat"}}
			_, err := t.Agent.CreateSandbox(ctx, r)
			return err
		}},
		{"a sandbox with a resolv.conf that is none", podpolicy.ResolvConfDenied, "sandbox.dns[0]", func(ctx context.Context, t *Target) error {
			r := t.Plan.CreateSandbox(t.SandboxID)
			r.Dns = []string{"nameserver 10.0.2.3\nsearch x"}
			_, err := t.Agent.CreateSandbox(ctx, r)
			return err
		}},
		{"an address on the loopback interface", podpolicy.NetworkDenied, "interface[lo]", func(ctx context.Context, t *Target) error {
			r := t.Plan.Interface()
			r.Interface.Name = "lo"
			_, err := t.Agent.UpdateInterface(ctx, r)
			return err
		}},
		{"a loopback address on another interface", podpolicy.NetworkDenied, "IPAddresses[0]", func(ctx context.Context, t *Target) error {
			r := t.Plan.Interface()
			r.Interface.IPAddresses[0].Address = "127.0.0.1"
			_, err := t.Agent.UpdateInterface(ctx, r)
			return err
		}},
		{"more name servers than any pod has", podpolicy.ResolvConfDenied, "sandbox.dns", func(ctx context.Context, t *Target) error {
			r := t.Plan.CreateSandbox(t.SandboxID)
			r.Dns = slices.Repeat([]string{"nameserver 10.0.2.3"}, 100)
			_, err := t.Agent.CreateSandbox(ctx, r)
			return err
		}},
		{"other processes' names", podpolicy.UnexpectedField, "sandbox_pidns", func(ctx context.Context, t *Target) error {
			r := t.Plan.CreateSandbox(t.SandboxID)
			r.SandboxPidns = !r.SandboxPidns
			_, err := t.Agent.CreateSandbox(ctx, r)
			return err
		}},
		{"a policy of the host", podpolicy.RequestNotAllowed, "SetPolicyRequest", func(ctx context.Context, t *Target) error {
			_, err := t.Agent.SetPolicy(ctx, &agentpb.SetPolicyRequest{Policy: "package agent_policy"})
			return err
		}},
	}
}

// outside gives the requests that no policy allows, in any state.
func outside() []Attack {
	never := func(name string, do func(context.Context, *Target) error) Attack {
		return Attack{name, podpolicy.RequestNotAllowed, "", do}
	}
	return []Attack{
		never("set the guest's clock", func(ctx context.Context, t *Target) error {
			_, err := t.Agent.SetGuestDateTime(ctx, &agentpb.SetGuestDateTimeRequest{Sec: 1})
			return err
		}),
		never("feed the random number generator", func(ctx context.Context, t *Target) error {
			_, err := t.Agent.ReseedRandomDev(ctx, &agentpb.ReseedRandomDevRequest{Data: []byte("0")})
			return err
		}),
		never("add swap", func(ctx context.Context, t *Target) error {
			_, err := t.Agent.AddSwapPath(ctx, &agentpb.AddSwapPathRequest{Path: "/dev/vdb"})
			return err
		}),
		never("change the packet filter", func(ctx context.Context, t *Target) error {
			_, err := t.Agent.SetIPTables(ctx, &agentpb.SetIPTablesRequest{Data: []byte("*nat\nCOMMIT\n")})
			return err
		}),
		{"a second sandbox", podpolicy.Replayed, "sandbox", func(ctx context.Context, t *Target) error {
			_, err := t.Agent.CreateSandbox(ctx, t.Plan.CreateSandbox(t.SandboxID))
			return err
		}},
	}
}

func beforeFiles() []Attack {
	file := func(name string, reason denial.Reason, claim string, change func(*agentpb.CopyFileRequest)) Attack {
		return Attack{"copy a file: " + name, reason, claim, copying(change)}
	}
	return append(append(outside(), ofAccount()...),
		file("a symbolic link in its place", podpolicy.LinkDenied, "volumes[", func(r *agentpb.CopyFileRequest) {
			r.FileMode, r.Data, r.FileSize = 0o120777, []byte("/etc"), 4
		}),
		file("through a link that the host imagines", podpolicy.FileUndeclared, "volumes[", func(r *agentpb.CopyFileRequest) { r.Path += "/passwd" }),
		file("with dots in its path", podpolicy.PathDenied, "path", func(r *agentpb.CopyFileRequest) {
			r.Path = podpolicy.SharedDir + "/../../../etc/passwd"
		}),
		file("to an absolute path elsewhere", podpolicy.PathDenied, "path", func(r *agentpb.CopyFileRequest) { r.Path = "/etc/passwd" }),
		file("with a changed byte", podpolicy.FileMismatch, "sha256", func(r *agentpb.CopyFileRequest) {
			if len(r.Data) == 0 {
				r.Data = []byte("x")
				return
			}
			r.Data[0] ^= 1
		}),
		file("executable", podpolicy.FileMismatch, "file_mode", func(r *agentpb.CopyFileRequest) { r.FileMode |= 0o111 }),
		file("from its middle", podpolicy.OutOfOrder, "offset", func(r *agentpb.CopyFileRequest) { r.Offset = 1 }),
		Attack{"create a container before its files are there", podpolicy.VolumeIncomplete, "volumes[", func(ctx context.Context, t *Target) error {
			if !slices.ContainsFunc(t.victim().Policy().Mounts, func(m podpolicy.Mount) bool { return t.Plan.HasFiles(m.Volume) }) {
				return errNothingToAttack
			}
			_, err := t.Agent.CreateContainer(ctx, t.victim().Create("hostile1", t.SandboxID))
			return err
		}},
	)
}

func beforeContainers() []Attack { return slices.Concat(changed(), ofServices(), ofPod()) }

func changed() []Attack {
	change := func(name string, reason denial.Reason, claim string, f func(*agentpb.CreateContainerRequest)) Attack {
		return Attack{"create a container: " + name, reason, claim, creating(f)}
	}
	return []Attack{
		change("another image digest", podpolicy.ImageMismatch, "image", func(r *agentpb.CreateContainerRequest) {
			i := strings.LastIndex(r.Storages[0].Source, ":") + 1
			r.Storages[0].Source = r.Storages[0].Source[:i] + strings.Repeat("0", len(r.Storages[0].Source)-i)
		}),
		change("another image digest in the annotation", podpolicy.ImageMismatch, "image", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Annotations[podpolicy.AnnotationImage] = "registry.example/evil@sha256:" + strings.Repeat("0", 64)
		}),
		change("LD_PRELOAD", podpolicy.EnvUnexpected, "env[LD_PRELOAD]", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Process.Env = append(r.OCI.Process.Env, "LD_PRELOAD=/tmp/evil.so")
		}),
		change("a variable missing", podpolicy.EnvMissing, "env[", func(r *agentpb.CreateContainerRequest) { r.OCI.Process.Env = r.OCI.Process.Env[1:] }),
		change("a variable twice", podpolicy.EnvUnexpected, "env[", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Process.Env = append(r.OCI.Process.Env, r.OCI.Process.Env[0])
		}),
		change("another command", podpolicy.ArgsMismatch, "args", func(r *agentpb.CreateContainerRequest) { r.OCI.Process.Args = []string{"/bin/sh", "-c", "env"} }),
		change("a mount of the guest's root", podpolicy.MountUnexpected, "mounts[/mnt]", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: "/mnt", Source: "/", Type: "bind", Options: []string{"rbind", "rw"}})
		}),
		change("a storage of a host device", podpolicy.MountUnexpected, "storages[/run/evil]", func(r *agentpb.CreateContainerRequest) {
			r.Storages = append(r.Storages, &agentpb.Storage{Driver: "blk", Source: "02/00", Fstype: "ext4", MountPoint: "/run/evil"})
		}),
		change("a mount missing", podpolicy.MountMissing, "mounts[", func(r *agentpb.CreateContainerRequest) { r.OCI.Mounts = nil }),
		change("all capabilities", podpolicy.PrivilegeMismatch, "capabilities", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Process.Capabilities.Bounding = podpolicy.AllCapabilities()
		}),
		change("another user", podpolicy.UserMismatch, "user.uid", func(r *agentpb.CreateContainerRequest) { r.OCI.Process.User.UID += 5 }),
		change("a hook", podpolicy.UnexpectedField, "Hooks", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Hooks = &agentpb.Hooks{Prestart: []*agentpb.Hook{{Path: "/bin/sh"}}}
		}),
		change("a device", podpolicy.DeviceUnexpected, "devices[/dev/vda]", func(r *agentpb.CreateContainerRequest) {
			r.Devices = []*agentpb.Device{{Type: "blk", VmPath: "/dev/vda", ContainerPath: "/dev/vda"}}
		}),
		change("a device's node", podpolicy.DeviceUnexpected, "devices[/dev/mem]", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Linux.Devices = []*agentpb.LinuxDevice{{Path: "/dev/mem", Type: "c", Major: 1, Minor: 1}}
		}),
		change("a rule that allows all devices", podpolicy.DeviceUnexpected, "devices", func(r *agentpb.CreateContainerRequest) {
			if r.OCI.Linux.Resources == nil {
				r.OCI.Linux.Resources = &agentpb.LinuxResources{}
			}
			r.OCI.Linux.Resources.Devices = []*agentpb.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}
		}),
		change("nothing masked", podpolicy.PrivilegeMismatch, "masked_paths", func(r *agentpb.CreateContainerRequest) { r.OCI.Linux.MaskedPaths = nil }),
		change("an id that names the agent's folder", podpolicy.BadID, "container_id", func(r *agentpb.CreateContainerRequest) { r.ContainerId = "shared" }),
		change("a field from the future", podpolicy.UnknownField, "", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Process.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
		}),
		change("one that the policy does not have", podpolicy.ContainerUndeclared, "containers[evil]", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Annotations[podpolicy.AnnotationName] = "evil"
		}),
		{"a container before the init containers", podpolicy.OutOfOrder, "containers[", func(ctx context.Context, t *Target) error {
			if len(t.Plan.Init) == 0 {
				return errNothingToAttack
			}
			_, err := t.Agent.CreateContainer(ctx, t.Plan.Containers[0].Create("hostile1", t.SandboxID))
			return err
		}},
		{"exec before any container", podpolicy.UnknownContainer, "container_id", func(ctx context.Context, t *Target) error {
			_, err := t.Agent.ExecProcess(ctx, t.victim().Exec("hostile1", "x", []string{"/bin/sh"}, false))
			return err
		}},
		{"start a container that was not created", podpolicy.UnknownContainer, "container_id", func(ctx context.Context, t *Target) error {
			_, err := t.Agent.StartContainer(ctx, &agentpb.StartContainerRequest{ContainerId: "hostile1"})
			return err
		}},
		{"copy a file again", podpolicy.Replayed, "volumes[", copying(func(*agentpb.CopyFileRequest) {})},
	}
}
