package shim

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// What a host's runtime adds by itself and the guest makes itself: these mounts
// never travel.
var ownMounts = []string{
	"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/secrets",
	"/run/.containerenv", // CRI-O's
}

// crioScratch is where CRI-O gives a container with a read-only root memory to write to.
// Who wants that in a guest says so with an emptyDir.
var crioScratch = []string{"/run", "/tmp", "/var/tmp"}

// create makes the request for a container of the pod's policy from the bundle.
// It starts from the form that the policy has and puts in what the host says
// wherever the two speak of the same thing.
func create(policy *podpolicy.Policy, c *podpolicy.Container, s *specs.Spec, id, sandboxID string) (*agentpb.CreateContainerRequest, error) {
	if s.Process == nil || s.Linux == nil || s.Root == nil {
		return nil, fmt.Errorf("container %s: the bundle has no process, root or Linux part", c.Name)
	}
	req := proto.CloneOf(policy.CreateContainerRequest(c, id, sandboxID, environment(c, s.Process.Env)))
	process(req.OCI.Process, c, s.Process)
	req.OCI.Root.Readonly = s.Root.Readonly
	if len(s.Linux.MaskedPaths) == 0 { // a privileged container; else each version of each runtime has a list of its own
		req.OCI.Linux.MaskedPaths = nil
	}
	if len(s.Linux.ReadonlyPaths) == 0 {
		req.OCI.Linux.ReadonlyPaths = nil
	}
	req.OCI.Linux.Resources = resources(c, s.Linux.Resources)
	req.OCI.Mounts = mounts(req.OCI.Mounts, policy, c, s)
	devices(req, s.Linux)
	req.SandboxPidns = sharesPIDs(s)
	return req, nil
}

// sharesPIDs reports whether the container is to be in the pod's pid namespace, or the
// node's, which the guest has no more than a policy.
func sharesPIDs(s *specs.Spec) bool {
	i := slices.IndexFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	return i < 0 || s.Linux.Namespaces[i].Path != ""
}

// execute makes the request for a further process in the container.
func execute(policy *podpolicy.Policy, c *podpolicy.Container, p *specs.Process, id, execID string) *agentpb.ExecProcessRequest {
	req := proto.CloneOf(policy.ExecProcessRequest(c, id, execID, p.Args, environment(c, p.Env), p.Terminal))
	process(req.Process, c, p)
	req.Process.Terminal = p.Terminal
	return req
}

// environment gives the host's variables, the last of each name: containerd lists the
// image's before the pod's. It leaves out those of services that the guest would not
// take: a kubelet adds some to every pod.
func environment(c *podpolicy.Container, env []string) []string {
	sealed := map[string]*podpolicy.EnvVar{}
	for i := range c.Env {
		sealed[c.Env[i].Name] = &c.Env[i]
	}
	kept := map[string]int{} // by name, its place in env
	for i, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if podpolicy.ServiceLinkVariable(name) {
			v := sealed[name]
			if v == nil && !takesLink(c, name) {
				continue
			}
			// A service may have the name of a variable of the image.
			if j, ok := kept[name]; ok && v != nil && v.Value != nil && env[j] == name+"="+*v.Value {
				continue
			}
		}
		kept[name] = i
	}
	var out []string
	for _, i := range slices.Sorted(maps.Values(kept)) {
		kv := env[i]
		// containerd puts its own in the place of the pod's where there is a terminal.
		if v := sealed["TERM"]; kv == "TERM=xterm" && v != nil && v.Value != nil {
			kv = "TERM=" + *v.Value
		}
		out = append(out, kv)
	}
	return out
}

// takesLink reports whether the guest would take a variable of a service that the policy
// does not name. A service called ld or python-api gives names that make programs load
// code, which no host may set.
func takesLink(c *podpolicy.Container, name string) bool {
	if c.ServiceLinks == "" || podpolicy.LoaderVariable(name) {
		return false
	}
	return c.ServiceLinks != podpolicy.ServiceLinksKubernetes || strings.HasPrefix(name, "KUBERNETES_")
}

func process(out *agentpb.Process, c *podpolicy.Container, p *specs.Process) {
	out.Args, out.Cwd, out.Terminal, out.NoNewPrivileges = p.Args, p.Cwd, p.Terminal, p.NoNewPrivileges
	if path.IsAbs(p.Cwd) { // runtimes pass on what the pod or the image says, such as /app/
		out.Cwd = path.Clean(p.Cwd)
	}
	// Where the image names the user, the guest resolves the name; the host's
	// numbers come from a copy of the image that nobody has verified.
	if c.User.UID != nil {
		out.User.UID = p.User.UID
	}
	if c.User.GID != nil {
		out.User.GID = p.User.GID
	}
	for _, want := range c.User.AdditionalGIDs {
		if !slices.Contains(p.User.AdditionalGids, want) {
			out.User.AdditionalGids = p.User.AdditionalGids
			break
		}
	}
	if p.Capabilities == nil {
		out.Capabilities = &agentpb.LinuxCapabilities{}
		return
	}
	out.Capabilities = &agentpb.LinuxCapabilities{
		Bounding: capabilities(c, p.Capabilities.Bounding), Effective: capabilities(c, p.Capabilities.Effective), Permitted: capabilities(c, p.Capabilities.Permitted),
		Inheritable: capabilities(c, p.Capabilities.Inheritable), Ambient: capabilities(c, p.Capabilities.Ambient),
	}
	if slices.Equal(out.Capabilities.Effective, []string(nil)) && len(c.Capabilities) > 0 && len(out.Capabilities.Bounding) > 0 {
		// For users other than root some runtimes leave these sets empty: the guest
		// gives a process what its user may have.
		out.Capabilities.Effective, out.Capabilities.Permitted = out.Capabilities.Bounding, out.Capabilities.Bounding
	}
}

// capabilities sorts and leaves out MKNOD where the policy does: it is in the
// defaults of container runtimes, and not in Coffer's.
func capabilities(c *podpolicy.Container, in []string) []string {
	out := slices.Clone(in)
	if !slices.Contains(c.Capabilities, "CAP_MKNOD") {
		out = slices.DeleteFunc(out, func(s string) bool { return s == "CAP_MKNOD" })
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// resources keeps what a policy speaks of: limits of memory and CPU. What the
// kubelet fills in for a container without any is none.
func resources(c *podpolicy.Container, r *specs.LinuxResources) *agentpb.LinuxResources {
	if r == nil {
		return nil
	}
	out := &agentpb.LinuxResources{}
	if m := r.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
		out.Memory = &agentpb.LinuxMemory{Limit: *m.Limit}
	}
	if u := r.CPU; u != nil {
		cpu := &agentpb.LinuxCPU{}
		if u.Quota != nil && *u.Quota > 0 && u.Period != nil {
			cpu.Quota, cpu.Period = *u.Quota, *u.Period
		}
		const least = 2 // the kubelet's, for a container without a request
		if u.Shares != nil && (*u.Shares != least || c.Resources.CPUShares != 0) {
			cpu.Shares = *u.Shares
		}
		if cpu.Quota != 0 || cpu.Shares != 0 {
			out.CPU = cpu
		}
	}
	if out.Memory == nil && out.CPU == nil {
		return nil
	}
	return out
}

// mounts gives the container's mounts by the host's word: for each that the policy
// knows, the policy's form if it is the same volume; every other one as it is.
func mounts(form []*agentpb.Mount, policy *podpolicy.Policy, c *podpolicy.Container, s *specs.Spec) []*agentpb.Mount {
	byDest := map[string]*agentpb.Mount{}
	volumes := map[string]*podpolicy.Volume{}
	for i, m := range form {
		byDest[m.Destination] = m
		volumes[m.Destination] = policy.Volume(c.Mounts[i].Volume)
	}
	var out []*agentpb.Mount
	for i := range s.Mounts {
		m := &s.Mounts[i]
		dest := filepath.Clean(m.Destination)
		known := byDest[dest]
		if known == nil {
			if madeByGuest(m, dest, c) {
				continue
			}
			out = append(out, &agentpb.Mount{Destination: dest, Source: m.Source, Type: m.Type, Options: m.Options})
			continue
		}
		v := volumes[dest]
		name, _, ok := volumeOf(m.Source)
		if ok && v.Kind == podpolicy.VolumeServiceAccount {
			ok, name = strings.HasPrefix(name, accountPrefix), v.Name // the API server makes the name up
		}
		if ok && v.Kind == podpolicy.VolumeDisk && v.Kept() {
			name = v.Name // the kubelet's folder has the PersistentVolume's
		}
		delete(byDest, dest)
		if !ok || name != v.Name {
			out = append(out, &agentpb.Mount{Destination: dest, Source: m.Source, Type: m.Type, Options: m.Options})
			continue
		}
		known = proto.CloneOf(known)
		if v.Kind == podpolicy.VolumeEmptyDir || v.Kind == podpolicy.VolumeDisk { // files are read-only in the guest whatever the pod says
			mode := "rw"
			if slices.Contains(m.Options, "ro") {
				mode = "ro"
			}
			known.Options = []string{"rbind", "rprivate", mode}
		}
		out = append(out, known)
	}
	for i, m := range form { // a cluster that gives no token has no such mount
		if byDest[m.Destination] != nil && policy.Volume(c.Mounts[i].Volume).Kind == podpolicy.VolumeServiceAccount {
			out = append(out, m)
		}
	}
	return out
}

// accountPrefix begins the name of the volume that the API server adds to a pod.
const accountPrefix = "kube-api-access-"

// madeByGuest tells the mounts that every container has and the guest makes: the
// system's, the pod's files of names, the termination message, VOLUMEs of the image.
func madeByGuest(m *specs.Mount, dest string, c *podpolicy.Container) bool {
	if slices.Contains(ownMounts, dest) || slices.Contains(c.ImageVolumes, dest) {
		return true
	}
	if m.Type == "tmpfs" && m.Source == "tmpfs" && slices.Contains(crioScratch, dest) {
		return true // no kubelet asks for a mount of this type
	}
	if dest == podpolicy.ServiceAccountDir {
		return true // the owner does not want it: the pod goes without
	}
	_, ok := terminationFile(c, m)
	return ok
}

// volumeOf reads the kubelet's paths of volumes, .../pods/UID/volumes/PLUGIN/NAME
// and .../pods/UID/volume-subpaths/NAME/CONTAINER/INDEX, and gives the volume's
// name and the directory where it lies as a whole ("" where a sub path hides that).
func volumeOf(source string) (name, dir string, ok bool) {
	parts := strings.Split(filepath.Clean(source), "/")
	for i := 0; i+4 < len(parts); i++ {
		if parts[i] != "pods" {
			continue
		}
		switch parts[i+2] {
		case "volumes":
			return parts[i+4], strings.Join(parts[:i+5], "/"), true
		case "volume-subpaths":
			pattern := filepath.Join("/", strings.Join(parts[:i+2], "/"), "volumes", "*", parts[i+3])
			if found, err := filepath.Glob(pattern); err == nil && len(found) == 1 {
				return parts[i+3], found[0], true
			}
			return parts[i+3], "", true
		}
	}
	return "", "", false
}
