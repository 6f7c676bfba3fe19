package podpolicy

import (
	"fmt"
	"slices"
	"strings"
)

// Bounds of a policy; MaxSize bounds the whole document.
const (
	maxContainers = 64
	maxVolumes    = 256
	maxFiles      = 4096
	maxFileSize   = 64 << 20
	maxList       = 4096
	maxHosts      = 256
	maxString     = 1 << 20
	maxBytes      = 1 << 50

	partSuffix = ".coffer-part"
)

// Validate checks grammar, bounds and references; it reports the first fault
// with its path. Encode and Parse call it.
func (p *Policy) Validate() error {
	switch {
	case p.Version != Version:
		return fmt.Errorf("version: %d is not %d", p.Version, Version)
	case !podRE.MatchString(p.Pod):
		return fmt.Errorf("pod: %s is not namespace/name", clip(p.Pod))
	case !hostnameRE.MatchString(p.Hostname):
		return fmt.Errorf("hostname: %s is not a host name", clip(p.Hostname))
	case len(p.Containers) == 0:
		return fmt.Errorf("containers: none")
	case len(p.Containers)+len(p.InitContainers) > maxContainers:
		return fmt.Errorf("containers: more than %d", maxContainers)
	}
	if err := p.Sandbox.validate(); err != nil {
		return fmt.Errorf("sandbox.%w", err)
	}
	volumes, err := validateVolumes(p.Volumes)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, l := range []struct {
		path string
		cs   []Container
	}{{"init_containers", p.InitContainers}, {"containers", p.Containers}} {
		for i := range l.cs {
			c := &l.cs[i]
			if !labelRE.MatchString(c.Name) {
				return fmt.Errorf("%s[%d].name: %s is not a DNS label", l.path, i, clip(c.Name))
			}
			if names[c.Name] {
				return fmt.Errorf("%s[%d].name: %s twice", l.path, i, c.Name)
			}
			names[c.Name] = true
			if c.Sidecar && l.path != "init_containers" {
				return fmt.Errorf("%s[%s].sidecar: only an init container stays", l.path, c.Name)
			}
			if err := c.validate(volumes); err != nil {
				return fmt.Errorf("%s[%s].%w", l.path, c.Name, err)
			}
		}
	}
	return nil
}

func (s *Sandbox) validate() error {
	if s.ResolvConf != "host" && s.ResolvConf != "none" {
		return fmt.Errorf("resolv_conf: %s is neither host nor none", clip(s.ResolvConf))
	}
	if len(s.Hosts) > maxHosts {
		return fmt.Errorf("hosts: more than %d", maxHosts)
	}
	for i, a := range s.Hosts {
		if ip, ok := hostAddr(a.IP); !ok || ip.IsUnspecified() {
			return fmt.Errorf("hosts[%d].ip: %s is no address", i, clip(a.IP))
		}
		if len(a.Names) == 0 || len(a.Names) > maxHosts {
			return fmt.Errorf("hosts[%d].names: 1 to %d belong here", i, maxHosts)
		}
		for _, n := range a.Names {
			if !dnsNameRE.MatchString(n) {
				return fmt.Errorf("hosts[%d].names: %s is no DNS name", i, clip(n))
			}
		}
	}
	if s.ShmBytes < 0 || s.ShmBytes > maxBytes {
		return fmt.Errorf("shm_bytes: %d is out of range", s.ShmBytes)
	}
	if len(s.Sysctls) > maxList {
		return fmt.Errorf("sysctls: too many")
	}
	for _, k := range sortedKeys(s.Sysctls) {
		if !sysctlRE.MatchString(k) || strings.Contains(k, "..") {
			return fmt.Errorf("sysctls[%s]: not a namespaced sysctl", clip(k))
		}
		if !sysctlValRE.MatchString(s.Sysctls[k]) {
			return fmt.Errorf("sysctls[%s]: %s is not numeric", k, clip(s.Sysctls[k]))
		}
	}
	return nil
}

func validateVolumes(vs []Volume) (map[string]*Volume, error) {
	if len(vs) > maxVolumes {
		return nil, fmt.Errorf("volumes: more than %d", maxVolumes)
	}
	byName := map[string]*Volume{}
	disks := 0
	for i := range vs {
		v := &vs[i]
		if !labelRE.MatchString(v.Name) {
			return nil, fmt.Errorf("volumes[%d].name: %s is not a DNS label", i, clip(v.Name))
		}
		if v.Name == ImagesVolume && v.Kind != VolumeDisk {
			return nil, fmt.Errorf("volumes[%s].kind: the name is that of the disk for images", v.Name)
		}
		if byName[v.Name] != nil {
			return nil, fmt.Errorf("volumes[%d].name: %s twice", i, v.Name)
		}
		byName[v.Name] = v
		if v.Kind == VolumeDisk {
			if disks++; disks > MaxDisks {
				return nil, fmt.Errorf("volumes: more than %d disks", MaxDisks)
			}
		}
		if err := v.validate(); err != nil {
			return nil, fmt.Errorf("volumes[%s].%w", v.Name, err)
		}
	}
	return byName, nil
}

func (v *Volume) validate() error {
	if v.Kind != VolumeDisk && (v.Kept() || v.New || v.Block) {
		return fmt.Errorf("key, sealing, new, block: only for a disk")
	}
	switch v.Kind {
	case VolumeEmptyDir:
		if len(v.Files) != 0 {
			return fmt.Errorf("files: not for an empty-dir")
		}
		if v.SizeLimit < 0 || v.SizeLimit > maxBytes {
			return fmt.Errorf("size_limit: %d is out of range", v.SizeLimit)
		}
	case VolumeDisk:
		return v.validateDisk()
	case VolumeServiceAccount:
		if len(v.Files) != 0 || v.SizeLimit != 0 || v.Memory || v.GID != nil {
			return fmt.Errorf("kind: a service-account has no other member than its name")
		}
	case VolumeFiles:
		if v.SizeLimit != 0 || v.Memory {
			return fmt.Errorf("size_limit, memory: only for an empty-dir")
		}
		if len(v.Files) > maxFiles {
			return fmt.Errorf("files: more than %d", maxFiles)
		}
		dirs := v.dirs()
		for _, name := range sortedKeys(v.Files) {
			f := v.Files[name]
			switch {
			case !relClean(name):
				return fmt.Errorf("files[%s]: not a path below the volume's root", clip(name))
			case strings.HasSuffix(name, partSuffix):
				return fmt.Errorf("files[%s]: the agent keeps unfinished files under such names", clip(name))
			case dirs[name]:
				return fmt.Errorf("files[%s]: file and directory at once", clip(name))
			case !hex64RE.MatchString(f.SHA256):
				return fmt.Errorf("files[%s].sha256: not 64 lower-case hex digits", clip(name))
			case f.Size < 0 || f.Size > maxFileSize:
				return fmt.Errorf("files[%s].size: %d is not between 0 and %d", clip(name), f.Size, maxFileSize)
			case f.Mode > 0o777:
				return fmt.Errorf("files[%s].mode: %#o has more than permission bits", clip(name), f.Mode)
			}
		}
	default:
		return fmt.Errorf("kind: %s is unknown", clip(string(v.Kind)))
	}
	return nil
}

// dirs gives the directories that the volume's files imply, without the root.
func (v *Volume) dirs() map[string]bool {
	dirs := map[string]bool{}
	for name := range v.Files {
		for i := range len(name) {
			if name[i] == '/' {
				dirs[name[:i]] = true
			}
		}
	}
	return dirs
}

func (c *Container) validate(volumes map[string]*Volume) error {
	m := imageRE.FindStringSubmatch(c.Image)
	switch {
	case m == nil || len(c.Image) > 1024:
		return fmt.Errorf("image: %s is not registry/repository@sha256:digest", clip(c.Image))
	case !digestRE.MatchString(c.ManifestDigest):
		return fmt.Errorf("manifest_digest: %s is not sha256:digest", clip(c.ManifestDigest))
	case c.IndexDigest != "" && !digestRE.MatchString(c.IndexDigest):
		return fmt.Errorf("index_digest: %s is not sha256:digest", clip(c.IndexDigest))
	case c.IndexDigest != "" && m[len(m)-1] != c.IndexDigest:
		return fmt.Errorf("image: its digest is not index_digest")
	case c.IndexDigest == "" && m[len(m)-1] != c.ManifestDigest:
		return fmt.Errorf("image: its digest is not manifest_digest")
	case !absClean(c.Cwd):
		return fmt.Errorf("cwd: %s is not an absolute clean path", clip(c.Cwd))
	case c.Sidecar && c.Restart != "Always":
		return fmt.Errorf("sidecar: its restart is Always")
	case c.ServiceLinks != "" && c.ServiceLinks != ServiceLinksAll && c.ServiceLinks != ServiceLinksKubernetes:
		return fmt.Errorf("service_links: %s is unknown", clip(c.ServiceLinks))
	case c.Seccomp != "unconfined" && c.Seccomp != "runtime-default" && !digestRE.MatchString(c.Seccomp):
		return fmt.Errorf("seccomp: %s is unknown", clip(c.Seccomp))
	case !slices.Contains([]string{"Always", "OnFailure", "Never"}, c.Restart):
		return fmt.Errorf("restart: %s is unknown", clip(c.Restart))
	}
	if err := validateArgs(c.Args); err != nil {
		return err
	}
	if err := validateEnv(c.Env); err != nil {
		return err
	}
	if err := c.User.validate(); err != nil {
		return err
	}
	if !slices.IsSorted(c.Capabilities) || len(slices.Compact(slices.Clone(c.Capabilities))) != len(c.Capabilities) {
		return fmt.Errorf("capabilities: not sorted and unique")
	}
	for i, name := range c.Capabilities {
		if _, ok := CapabilityNumber(name); !ok {
			return fmt.Errorf("capabilities[%d]: %s is unknown", i, clip(name))
		}
	}
	for _, l := range []struct {
		name string
		ps   []string
	}{{"masked_paths", c.MaskedPaths}, {"read_only_paths", c.ReadOnlyPaths}} {
		if len(l.ps) > maxList {
			return fmt.Errorf("%s: too many", l.name)
		}
		for i, p := range l.ps {
			if !absClean(p) {
				return fmt.Errorf("%s[%d]: %s is not an absolute clean path", l.name, i, clip(p))
			}
		}
	}
	if err := c.validateMounts(volumes); err != nil {
		return err
	}
	if err := c.validateDevices(volumes); err != nil {
		return err
	}
	if err := c.CheckTermination(); err != nil {
		return fmt.Errorf("termination_message: %w", err)
	}
	r := c.Resources
	if r.MemoryBytes < 0 || r.CPUQuota < 0 || r.Pids < 0 || r.MemoryBytes > maxBytes || (r.CPUQuota == 0) != (r.CPUPeriod == 0) || r.CPUPeriod > 1e9 {
		return fmt.Errorf("resources: out of range")
	}
	for i, x := range c.Exec {
		if x.Any == (len(x.Args) > 0) {
			return fmt.Errorf("exec[%d]: either args or any", i)
		}
		if !x.Any {
			if err := validateArgs(x.Args); err != nil {
				return fmt.Errorf("exec[%d].%w", i, err)
			}
		}
	}
	for i, s := range c.Signals {
		if s < 1 || s > 64 {
			return fmt.Errorf("signals[%d]: %d is no signal", i, s)
		}
	}
	return nil
}

func validateArgs(args []string) error {
	if len(args) == 0 || args[0] == "" {
		return fmt.Errorf("args: no command")
	}
	if len(args) > maxList {
		return fmt.Errorf("args: more than %d", maxList)
	}
	for i, a := range args {
		if len(a) > maxString || strings.ContainsRune(a, 0) {
			return fmt.Errorf("args[%d]: too long or with a NUL", i)
		}
	}
	return nil
}

// one reports whether exactly one source of the value is set.
func (v *EnvVar) one() bool {
	n := 0
	for _, set := range []bool{v.Value != nil, v.SHA256 != "", v.From != ""} {
		if set {
			n++
		}
	}
	return n == 1
}

func validateEnv(env []EnvVar) error {
	if len(env) > maxList {
		return fmt.Errorf("env: more than %d", maxList)
	}
	seen := map[string]bool{}
	for i, v := range env {
		switch {
		case v.Name == "" || len(v.Name) > 1024 || strings.ContainsAny(v.Name, "=\x00"):
			return fmt.Errorf("env[%d].name: not a variable's name", i)
		case seen[v.Name]:
			return fmt.Errorf("env[%s]: twice", clip(v.Name))
		case !v.one():
			return fmt.Errorf("env[%s]: exactly one of value, sha256 and from belongs here", clip(v.Name))
		case v.Value == nil && LoaderVariable(v.Name):
			return fmt.Errorf("env[%s]: a variable that makes programs load code must be spelled out, neither hashed nor the host's", clip(v.Name))
		case v.From != "" && hostWords[v.From] == nil:
			return fmt.Errorf("env[%s].from: %q is not known", clip(v.Name), clip(v.From))
		case v.SHA256 != "" && !hex64RE.MatchString(v.SHA256):
			return fmt.Errorf("env[%s].sha256: not 64 lower-case hex digits", clip(v.Name))
		case v.Value != nil && (len(*v.Value) > maxString || strings.ContainsRune(*v.Value, 0)):
			return fmt.Errorf("env[%s].value: too long or with a NUL", clip(v.Name))
		}
		seen[v.Name] = true
	}
	return nil
}

// maxID is the largest user or group id, Kubernetes' own limit.
const maxID = 1<<31 - 1

func value(id *uint32) uint32 {
	if id == nil {
		return 0
	}
	return *id
}

func (u *User) validate() error {
	if len(u.Image) > 256 || strings.ContainsAny(u.Image, "\x00\n") {
		return fmt.Errorf("user.image: not a user")
	}
	if len(u.AdditionalGIDs) > maxList {
		return fmt.Errorf("user.additional_gids: too many")
	}
	// The kernel takes the last number for "as it is", which is root.
	for _, id := range append([]uint32{value(u.UID), value(u.GID)}, u.AdditionalGIDs...) {
		if id > maxID {
			return fmt.Errorf("user: id %d is above %d", id, maxID)
		}
	}
	if u.NonRoot && u.UID != nil && *u.UID == 0 {
		return fmt.Errorf("user: uid 0 and non_root")
	}
	return nil
}

func (c *Container) validateMounts(volumes map[string]*Volume) error {
	if len(c.Mounts)+len(c.ImageVolumes) > maxList {
		return fmt.Errorf("mounts: too many")
	}
	dests := map[string]bool{}
	for i, m := range c.Mounts {
		v := volumes[m.Volume]
		switch {
		case v == nil:
			return fmt.Errorf("mounts[%d].volume: %s is no volume of the pod", i, clip(m.Volume))
		case v.Block:
			return fmt.Errorf("mounts[%d].volume: %s is a block volume, which has no file system to mount", i, m.Volume)
		case m.Volume == ImagesVolume:
			return fmt.Errorf("mounts[%d].volume: no container mounts the disk for images", i)
		case !mountable(m.Destination):
			return fmt.Errorf("mounts[%d].destination: %s may not be mounted over", i, clip(m.Destination))
		case dests[m.Destination]:
			return fmt.Errorf("mounts[%d].destination: %s twice", i, clip(m.Destination))
		case m.SubPath != "" && !relClean(m.SubPath):
			return fmt.Errorf("mounts[%d].sub_path: %s is not a path below the volume's root", i, clip(m.SubPath))
		}
		dests[m.Destination] = true
		if v.Kind == VolumeServiceAccount && (!m.ReadOnly || m.SubPath != "") {
			return fmt.Errorf("mounts[%d]: a service-account is mounted whole and read-only", i)
		}
		if v.Kind == VolumeFiles {
			if !m.ReadOnly {
				return fmt.Errorf("mounts[%d].read_only: a volume of files is always read-only", i)
			}
			if _, file := v.Files[m.SubPath]; m.SubPath != "" && !file && !v.dirs()[m.SubPath] {
				return fmt.Errorf("mounts[%d].sub_path: %s is not in volume %s", i, clip(m.SubPath), m.Volume)
			}
		}
	}
	for i, d := range c.ImageVolumes {
		if !mountable(d) || dests[d] {
			return fmt.Errorf("image_volumes[%d]: %s may not be mounted over", i, clip(d))
		}
		dests[d] = true
	}
	return nil
}

// mountable reports whether a volume may cover p: never the root nor the
// kernel's own file systems.
func mountable(p string) bool {
	if !absClean(p) || p == "/" || p == "/dev" || p == "/dev/pts" || p == "/dev/mqueue" {
		return false
	}
	for _, top := range []string{"/proc", "/sys"} {
		if p == top || strings.HasPrefix(p, top+"/") {
			return false
		}
	}
	return true
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
