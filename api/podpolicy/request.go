package podpolicy

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/api/agentpb"
)

// The one form of each request that a policy explains. The host's tools build
// requests with these functions and the Enforcer compares with what they give,
// so that the two cannot drift apart.

// Annotations of CreateContainerRequest.OCI that a container carries, exactly these.
const (
	AnnotationType    = "io.kubernetes.cri.container-type"
	AnnotationName    = "io.kubernetes.cri.container-name"
	AnnotationSandbox = "io.kubernetes.cri.sandbox-id"
	AnnotationImage   = "io.kubernetes.cri.image-name"
)

// Constants of the requests.
const (
	OCIVersion = "1.1.0" // any 1.x.y is accepted
	DirMode    = 0o755   // CopyFile: mode of directories that are made on the way
	ChunkSize  = 1 << 20 // CopyFile: data per request that the builder gives

	modeType    = 0o170000
	modeRegular = 0o100000
	modeDir     = 0o040000
	modeSymlink = 0o120000
)

// CreateSandboxRequest gives the request that creates the sandbox. dns holds
// lines of resolv.conf and is empty where the policy's ResolvConf is "none".
func (p *Policy) CreateSandboxRequest(sandboxID string, dns []string) *agentpb.CreateSandboxRequest {
	r := &agentpb.CreateSandboxRequest{Hostname: p.Hostname, Dns: dns, SandboxId: sandboxID, SandboxPidns: p.Sandbox.SharePIDs}
	if p.Sandbox.ShmBytes > 0 {
		r.Storages = []*agentpb.Storage{{
			Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: ShmDir,
			Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=" + strconv.FormatInt(p.Sandbox.ShmBytes, 10)},
		}}
	}
	return r
}

// CreateContainerRequest gives the request that creates container c of p. env
// is the whole environment, "NAME=value", hashed values filled in.
func (p *Policy) CreateContainerRequest(c *Container, containerID, sandboxID string, env []string) *agentpb.CreateContainerRequest {
	annotations := map[string]string{
		AnnotationType:    "container",
		AnnotationName:    c.Name,
		AnnotationSandbox: sandboxID,
		AnnotationImage:   c.Image,
	}
	linux := &agentpb.Linux{
		Sysctl:        p.Sandbox.Sysctls,
		Resources:     c.Resources.oci(),
		MaskedPaths:   c.MaskedPaths,
		ReadonlyPaths: c.ReadOnlyPaths,
	}
	spec := &agentpb.Spec{
		Version:     OCIVersion,
		Process:     c.process(c.Args, env, c.Terminal),
		Root:        &agentpb.Root{Path: RootFS(containerID), Readonly: c.ReadOnly},
		Hostname:    p.Hostname,
		Mounts:      p.mounts(c),
		Annotations: annotations,
		Linux:       linux,
	}
	linux.Devices = c.ociDevices()
	if rules := c.deviceRules(); rules != nil {
		if linux.Resources == nil {
			linux.Resources = &agentpb.LinuxResources{}
		}
		linux.Resources.Devices = rules
	}
	return &agentpb.CreateContainerRequest{
		ContainerId: containerID, Devices: c.blockDevices(), Storages: p.storages(c, containerID, annotations), OCI: spec, SandboxPidns: p.Sandbox.SharePIDs,
	}
}

func (r *Resources) oci() *agentpb.LinuxResources {
	if *r == (Resources{}) {
		return nil
	}
	out := &agentpb.LinuxResources{}
	if r.MemoryBytes != 0 {
		out.Memory = &agentpb.LinuxMemory{Limit: r.MemoryBytes}
	}
	if r.CPUQuota != 0 || r.CPUShares != 0 {
		out.CPU = &agentpb.LinuxCPU{Shares: r.CPUShares, Quota: r.CPUQuota, Period: r.CPUPeriod}
	}
	if r.Pids != 0 {
		out.Pids = &agentpb.LinuxPids{Limit: r.Pids}
	}
	return out
}

func (c *Container) process(args, env []string, terminal bool) *agentpb.Process {
	user := &agentpb.User{AdditionalGids: c.User.AdditionalGIDs}
	if c.User.UID != nil {
		user.UID = *c.User.UID
	}
	if c.User.GID != nil {
		user.GID = *c.User.GID
	}
	return &agentpb.Process{
		Terminal:        terminal,
		User:            user,
		Args:            args,
		Env:             env,
		Cwd:             c.Cwd,
		Capabilities:    &agentpb.LinuxCapabilities{Bounding: c.Capabilities, Effective: c.Capabilities, Permitted: c.Capabilities},
		NoNewPrivileges: c.NoNewPrivileges,
	}
}

func (p *Policy) mounts(c *Container) []*agentpb.Mount {
	var out []*agentpb.Mount
	for _, m := range c.Mounts {
		source := p.Volume(m.Volume).Path()
		if m.SubPath != "" {
			source += "/" + m.SubPath
		}
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		out = append(out, &agentpb.Mount{Destination: m.Destination, Source: source, Type: "bind", Options: []string{"rbind", "rprivate", mode}})
	}
	return out
}

func (p *Policy) storages(c *Container, containerID string, annotations map[string]string) []*agentpb.Storage {
	metadata, _ := json.Marshal(map[string]any{"metadata": annotations}) // strings only: cannot fail
	out := []*agentpb.Storage{{
		Driver:        "image_guest_pull",
		DriverOptions: []string{"image_guest_pull=" + string(metadata)},
		Source:        c.Image,
		Fstype:        "overlay",
		MountPoint:    RootFS(containerID),
	}}
	for _, v := range p.VolumesOf(c) {
		if v.Kind != VolumeEmptyDir && v.Kind != VolumeDisk || v.Block {
			continue
		}
		s := &agentpb.Storage{Driver: "local", Source: "local", Fstype: "local", Options: []string{"mode=0777"}, MountPoint: v.Path(), Shared: true}
		if v.Memory {
			s.Driver, s.Source, s.Fstype = "ephemeral", "tmpfs", "tmpfs"
		}
		if v.Kind == VolumeDisk {
			s.Driver, s.Source, s.Fstype, s.Options = "blk", DiskSerial(v.Name), "ext4", nil
		}
		if v.GID != nil {
			s.FsGroup = &agentpb.FSGroup{GroupId: *v.GID}
		}
		out = append(out, s)
	}
	return out
}

// Volume gives the pod volume of that name; nil if there is none.
func (p *Policy) Volume(name string) *Volume {
	for i := range p.Volumes {
		if p.Volumes[i].Name == name {
			return &p.Volumes[i]
		}
	}
	return nil
}

// VolumesOf gives the volumes that c mounts or has as devices, each once, in the order of
// its mounts and then of its devices.
func (p *Policy) VolumesOf(c *Container) []*Volume {
	var out []*Volume
	seen := map[string]bool{}
	for _, m := range c.Mounts {
		if !seen[m.Volume] {
			seen[m.Volume] = true
			out = append(out, p.Volume(m.Volume))
		}
	}
	for _, d := range c.Devices { // a container has a volume once as a device, and never beside as a mount
		out = append(out, p.Volume(d.Volume))
	}
	return out
}

// CopyFileRequests gives the requests that deliver one file of a volume, in order.
func CopyFileRequests(v *Volume, name string, content []byte) []*agentpb.CopyFileRequest {
	var out []*agentpb.CopyFileRequest
	for off := 0; off == 0 || off < len(content); off += ChunkSize {
		out = append(out, &agentpb.CopyFileRequest{
			Path:     v.Path() + "/" + name,
			FileSize: int64(len(content)),
			FileMode: modeRegular | v.Files[name].Mode,
			DirMode:  DirMode,
			Offset:   int64(off),
			Data:     content[off:min(off+ChunkSize, len(content))],
		})
	}
	return out
}

// CopyDirRequest gives the request that makes a directory of a volume of files;
// "" is the volume's root.
func CopyDirRequest(v *Volume, dir string) *agentpb.CopyFileRequest {
	p := v.Path()
	if dir != "" {
		p += "/" + dir
	}
	return &agentpb.CopyFileRequest{Path: p, FileMode: modeDir | DirMode, DirMode: DirMode}
}

// Dirs gives the directories that a volume's files imply, parents first,
// without the root.
func (v *Volume) Dirs() []string { return sortedKeys(v.dirs()) }

// ExecProcessRequest gives the request that starts a further process in c. env
// is the container's environment; a terminal adds TERM=xterm where both lack TERM
// (a host's runtime may have added it to env already).
func (p *Policy) ExecProcessRequest(c *Container, containerID, execID string, args, env []string, tty bool) *agentpb.ExecProcessRequest {
	given := slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") })
	if tty && !given && !c.hasEnv("TERM") {
		env = append(append([]string(nil), env...), termEnv)
	}
	return &agentpb.ExecProcessRequest{ContainerId: containerID, ExecId: execID, Process: c.process(args, env, tty)}
}

const termEnv = "TERM=xterm"

func (c *Container) hasEnv(name string) bool {
	for i := range c.Env {
		if c.Env[i].Name == name {
			return true
		}
	}
	return false
}

// FileNames gives the paths of a volume's files, sorted.
func (v *Volume) FileNames() []string { return sortedKeys(v.Files) }
