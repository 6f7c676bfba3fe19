// Package spec turns a pod and its resolved images into the pod policy and the
// plan: the exact requests with which coffer run makes the guest agent run the
// pod. Both come from one source, so the policy allows what the plan asks for
// and nothing else (api/podpolicy/SPEC.md).
//
// Where Kubernetes leaves a choice to the runtime, the choice is containerd's
// (environment order, masked paths), with one exception: MKNOD is not among the
// default capabilities.
//
// Invariants: every image is named by digest; values from Secrets enter the
// policy as hashes only, except where the pod writes them into a command line,
// which a note says.
//
// Trust zone: owner.
package spec

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/owner/pod"
)

// ResolvedImage is what a pod's image reference stands for.
type ResolvedImage struct {
	Reference      string // registry/repository@sha256:... of the index, or of the manifest if there is no index
	ManifestDigest string // sha256:... of the platform's manifest
	IndexDigest    string // "" if Reference names the manifest
	Config         *manifest.Config
	LayerBytes     int64 // sum of the layers' sizes in the registry; 0 if not known
}

// Options are the owner's choices beside the pod.
type Options struct {
	// Exec says what the host may start in containers, by container name; ""
	// holds for every container.
	Exec map[string][]podpolicy.Exec
	// HideLogs names containers whose output the host must not read; "" is all.
	HideLogs map[string]bool
	// Disks says which volumes are on disks, by volume.
	Disks map[string]Disk
	// ImagesOnDisk is the size of the disk on which the guest unpacks images; 0: in memory.
	ImagesOnDisk int64
	// MemoryMiB and VCPUs size the VM; 0: from the pod's limits.
	MemoryMiB, VCPUs int
}

// Disk is what the owner says of a volume on a disk. A persistentVolumeClaim has a
// Key; an emptyDir has none and the size of its sizeLimit.
type Disk struct {
	Key     string // resource that holds the key
	Sealing string // of which the TEE's own key is part: "mrenclave", "mrsigner"
	New     bool   // an empty disk may be made the volume
	Bytes   int64  // least size of the disk; 0: any
}

// shmBytes is the size of /dev/shm that container runtimes give.
const shmBytes = 64 << 20

// DefaultCapabilities are containerd's without MKNOD: a device node is a way to
// the guest's own devices that hardly any program needs.
var DefaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW",
	"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
	"/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
}

var readOnlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// Build makes policy and plan. images holds an entry for every image string of
// the pod. Problems are a *pod.Error.
func Build(p *pod.Pod, images map[string]*ResolvedImage, opts Options) (*podpolicy.Policy, *Plan, error) {
	b := &builder{pod: p, opts: opts, plan: &Plan{content: map[string]map[string][]byte{}}}
	b.policy = &podpolicy.Policy{
		Version:  podpolicy.Version,
		Pod:      p.FullName(),
		Hostname: p.HostName(),
		Sandbox:  podpolicy.Sandbox{ResolvConf: "host", ShmBytes: shmBytes},
	}
	if sc := p.Spec.SecurityContext; sc != nil && len(sc.Sysctls) > 0 {
		b.policy.Sandbox.Sysctls = map[string]string{}
		for _, s := range sc.Sysctls {
			b.policy.Sandbox.Sysctls[s.Name] = s.Value
		}
	}
	if s := p.Spec.ShareProcessNamespace; s != nil {
		b.policy.Sandbox.SharePIDs = *s
	}
	for _, a := range p.Spec.HostAliases {
		b.policy.Sandbox.Hosts = append(b.policy.Sandbox.Hosts, podpolicy.HostAlias{IP: a.IP, Names: a.Hostnames})
	}
	b.volumes()
	for _, c := range p.All() {
		img := images[c.Image]
		if img == nil || img.Config == nil {
			b.problem(c.Path+".image", "%s was not resolved", c.Image)
			continue
		}
		pc := b.container(c, img)
		if c.Init {
			b.policy.InitContainers = append(b.policy.InitContainers, pc)
		} else {
			b.policy.Containers = append(b.policy.Containers, pc)
		}
	}
	if len(b.problems) > 0 {
		return nil, nil, &pod.Error{Problems: b.problems}
	}
	if err := b.policy.Validate(); err != nil {
		return nil, nil, &pod.Error{Problems: []pod.Problem{{Reason: "this pod cannot be put into a policy: " + err.Error()}}}
	}
	if err := b.finish(images); err != nil {
		return nil, nil, err
	}
	return b.policy, b.plan, nil
}

type builder struct {
	pod      *pod.Pod
	opts     Options
	policy   *podpolicy.Policy
	plan     *Plan
	problems []pod.Problem
	account  bool // the pod has what a cluster gives for its API
}

func (b *builder) problem(at, format string, args ...any) {
	b.problems = append(b.problems, pod.Problem{Path: at, Reason: fmt.Sprintf(format, args...)})
}

// fail passes on the problems of a *pod.Error.
func (b *builder) fail(at string, err error) {
	var e *pod.Error
	if errors.As(err, &e) {
		b.problems = append(b.problems, e.Problems...)
		return
	}
	b.problem(at, "%s", err)
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// volumes puts the volumes that containers mount into the policy.
func (b *builder) volumes() {
	used := map[string]bool{}
	for _, c := range b.pod.All() {
		for _, m := range c.VolumeMounts {
			used[m.Name] = true
		}
		for _, d := range c.VolumeDevices {
			used[d.Name] = true
		}
	}
	var fsGroup *uint32
	if sc := b.pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		fsGroup = id(sc.FSGroup)
	}
	for i := range b.pod.Spec.Volumes {
		v := &b.pod.Spec.Volumes[i]
		if !used[v.Name] {
			continue
		}
		out := podpolicy.Volume{Name: v.Name, GID: fsGroup}
		if d, ok := b.opts.Disks[v.Name]; ok || v.PersistentVolumeClaim != nil {
			if !b.disk(fmt.Sprintf("spec.volumes[%d]", i), v, d, &out) {
				continue
			}
		} else if v.EmptyDir != nil {
			out.Kind = podpolicy.VolumeEmptyDir
			out.Memory = v.EmptyDir.Medium == corev1.StorageMediumMemory
			if v.EmptyDir.SizeLimit != nil {
				out.SizeLimit = v.EmptyDir.SizeLimit.Value()
			}
		} else {
			files, _, err := b.pod.VolumeFiles(v)
			if err != nil {
				b.fail(fmt.Sprintf("spec.volumes[%d]", i), err)
				continue
			}
			out.Kind = podpolicy.VolumeFiles
			out.Files = map[string]podpolicy.File{}
			b.plan.content[v.Name] = map[string][]byte{}
			for name, f := range files {
				mode := f.Mode
				if fsGroup != nil {
					mode |= 0o440 // as the kubelet: the group may read
				}
				out.Files[name] = podpolicy.File{SHA256: hexSum(f.Data), Size: int64(len(f.Data)), Mode: mode}
				b.plan.content[v.Name][name] = f.Data
			}
		}
		b.policy.Volumes = append(b.policy.Volumes, out)
	}
	if n := b.opts.ImagesOnDisk; n > 0 {
		b.policy.Volumes = append(b.policy.Volumes, podpolicy.Volume{Name: podpolicy.ImagesVolume, Kind: podpolicy.VolumeDisk, SizeLimit: max(n, podpolicy.MinDisk)})
	}
	for name := range b.opts.Disks {
		if !used[name] {
			b.problem("spec.volumes", "no container has a volume %s that could be on a disk", name)
		}
	}
	if a := b.pod.Spec.AutomountServiceAccountToken; a != nil && !*a || b.pod.Volume(accountVolume) != nil {
		return
	}
	b.policy.Volumes = append(b.policy.Volumes, podpolicy.Volume{Name: accountVolume, Kind: podpolicy.VolumeServiceAccount})
	b.account = true
}

// disk puts a volume on a disk into the policy.
func (b *builder) disk(at string, v *corev1.Volume, d Disk, out *podpolicy.Volume) bool {
	out.Kind, out.Key, out.Sealing, out.New, out.SizeLimit = podpolicy.VolumeDisk, d.Key, d.Sealing, d.New, d.Bytes
	if b.pod.Block(v.Name) {
		out.Block, out.GID = true, nil // the kubelet gives a device to no group either
	}
	kept := out.Kept()
	switch e := v.EmptyDir; {
	case v.PersistentVolumeClaim != nil && !kept:
		b.problem(at+".persistentVolumeClaim", "its volume needs a key that only this pod gets: --volume-key %s=kbs:///REPOSITORY/TYPE/TAG, or --volume-sealing", v.Name)
		return false
	case v.PersistentVolumeClaim != nil:
		return true
	case e == nil || e.Medium != "":
		b.problem(at, "a volume on a disk is a persistentVolumeClaim, or an emptyDir without a medium")
		return false
	case kept:
		b.problem(at+".emptyDir", "ends with its pod, so it has no key: use a persistentVolumeClaim for what is to last")
		return false
	case e.SizeLimit == nil || e.SizeLimit.Sign() <= 0:
		b.problem(at+".emptyDir.sizeLimit", "missing: it is the size of the disk")
		return false
	}
	out.SizeLimit = max(v.EmptyDir.SizeLimit.Value(), podpolicy.MinDisk)
	return true
}

// accountVolume is the policy's name of what a cluster gives a pod for its API.
const accountVolume = "kube-api-access"

func (b *builder) container(c pod.Container, img *ResolvedImage) podpolicy.Container {
	proc, err := b.pod.Process(c)
	if err != nil {
		b.fail(c.Path, err)
		return podpolicy.Container{}
	}
	cfg := &img.Config.Config
	out := podpolicy.Container{
		Name:           c.Name,
		Image:          img.Reference,
		ManifestDigest: img.ManifestDigest,
		IndexDigest:    img.IndexDigest,
		Args:           arguments(proc, cfg),
		Cwd:            workingDir(c.WorkingDir, cfg.WorkingDir),
		Terminal:       c.TTY,
		Stdin:          c.Stdin,
		Seccomp:        b.seccomp(c),
		MaskedPaths:    maskedPaths,
		ReadOnlyPaths:  readOnlyPaths,
		Resources:      resources(c),
		Restart:        b.restart(c),
		ServiceLinks:   b.pod.ServiceLinks(),
		Exec:           append(slices.Clone(b.opts.Exec[""]), b.opts.Exec[c.Name]...),
		Logs:           !b.opts.HideLogs[""] && !b.opts.HideLogs[c.Name],
	}
	if len(out.Args) == 0 || out.Args[0] == "" {
		b.problem(c.Path+".command", "missing, and image %s has neither ENTRYPOINT nor CMD", c.Image)
		out.Args = []string{"?"}
	}
	if proc.SecretArgs {
		b.plan.Notes = append(b.plan.Notes, c.Path+": a Secret's value is written into the command line, which is part of the policy and public")
	}
	for _, args := range c.Commands() { // the kubelet's own
		if x := (podpolicy.Exec{Args: args}); !slices.ContainsFunc(out.Exec, func(e podpolicy.Exec) bool { return !e.Any && slices.Equal(e.Args, args) }) {
			out.Exec = append(out.Exec, x)
		}
	}
	out.Sidecar = c.Sidecar()
	out.Env = b.env(c, proc, cfg)
	out.User = b.user(c, cfg)
	out.Capabilities = capabilities(c)
	out.Signals = b.signals(c, cfg)
	if sc := c.SecurityContext; sc != nil {
		out.ReadOnly = sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem
		out.NoNewPrivileges = sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation
	}
	b.mounts(c, cfg, &out)
	out.Devices = b.devices(c)
	if p := path.Clean(cmp.Or(c.TerminationMessagePath, podpolicy.DefaultTermination)); p != podpolicy.DefaultTermination {
		out.Termination = p
		if err := out.CheckTermination(); err != nil {
			b.problem(c.Path+".terminationMessagePath", "%v", err)
		}
	}
	return out
}

// arguments merges command and args with the image's ENTRYPOINT and CMD.
func arguments(proc *pod.ContainerProcess, cfg *manifest.ContainerConfig) []string {
	switch {
	case len(proc.Command) > 0:
		return append(slices.Clone(proc.Command), proc.Args...)
	case len(proc.Args) > 0:
		return append(slices.Clone(cfg.Entrypoint), proc.Args...)
	default:
		return append(slices.Clone(cfg.Entrypoint), cfg.Cmd...)
	}
}

func workingDir(fromPod, fromImage string) string {
	dir := fromPod
	if dir == "" {
		dir = fromImage
	}
	return path.Clean("/" + dir)
}

func (b *builder) mounts(c pod.Container, cfg *manifest.ContainerConfig, out *podpolicy.Container) {
	taken := map[string]bool{}
	for i, m := range c.VolumeMounts {
		sub, err := b.pod.SubPath(c, m)
		if err != nil {
			b.problem(fmt.Sprintf("%s.volumeMounts[%d].subPath", c.Path, i), "%s", err)
			continue
		}
		dest := path.Clean("/" + m.MountPath)
		taken[dest] = true
		_, files := b.plan.content[m.Name]
		v := b.pod.Volume(m.Name)
		claimed := v != nil && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
		out.Mounts = append(out.Mounts, podpolicy.Mount{Volume: m.Name, Destination: dest, SubPath: sub, ReadOnly: m.ReadOnly || files || claimed})
	}
	if b.account && !taken[podpolicy.ServiceAccountDir] {
		taken[podpolicy.ServiceAccountDir] = true
		out.Mounts = append(out.Mounts, podpolicy.Mount{Volume: accountVolume, Destination: podpolicy.ServiceAccountDir, ReadOnly: true})
	}
	for v := range cfg.Volumes {
		if dest := path.Clean("/" + v); !taken[dest] {
			taken[dest] = true
			out.ImageVolumes = append(out.ImageVolumes, dest)
		}
	}
	slices.Sort(out.ImageVolumes)
}

func (b *builder) restart(c pod.Container) string {
	policy := string(b.pod.Spec.RestartPolicy)
	if c.Sidecar() {
		return "Always"
	}
	if c.Init && policy == "Always" {
		return "OnFailure" // an init container that succeeded is done
	}
	return policy
}

func (b *builder) seccomp(c pod.Container) string {
	profile := (*corev1.SeccompProfile)(nil)
	if sc := b.pod.Spec.SecurityContext; sc != nil {
		profile = sc.SeccompProfile
	}
	if sc := c.SecurityContext; sc != nil && sc.SeccompProfile != nil {
		profile = sc.SeccompProfile
	}
	if profile != nil && profile.Type == corev1.SeccompProfileTypeRuntimeDefault {
		return "runtime-default"
	}
	return "unconfined" // Kubernetes' default
}

func id(v *int64) *uint32 {
	if v == nil {
		return nil
	}
	u := uint32(*v)
	return &u
}

// user merges the security contexts with the image's USER.
func (b *builder) user(c pod.Container, cfg *manifest.ContainerConfig) podpolicy.User {
	var u podpolicy.User
	if sc := b.pod.Spec.SecurityContext; sc != nil {
		u.UID, u.GID = id(sc.RunAsUser), id(sc.RunAsGroup)
		u.NonRoot = sc.RunAsNonRoot != nil && *sc.RunAsNonRoot
		for _, g := range append(slices.Clone(sc.SupplementalGroups), deref(sc.FSGroup)...) {
			if !slices.Contains(u.AdditionalGIDs, uint32(g)) {
				u.AdditionalGIDs = append(u.AdditionalGIDs, uint32(g))
			}
		}
	}
	if sc := c.SecurityContext; sc != nil {
		if sc.RunAsUser != nil {
			u.UID = id(sc.RunAsUser)
		}
		if sc.RunAsGroup != nil {
			u.GID = id(sc.RunAsGroup)
		}
		if sc.RunAsNonRoot != nil {
			u.NonRoot = *sc.RunAsNonRoot
		}
	}
	if u.UID == nil {
		u.Image = cfg.User
	}
	if u.NonRoot && (u.UID != nil && *u.UID == 0 || u.UID == nil && rootUser(cfg.User)) {
		b.problem(c.Path+".securityContext.runAsNonRoot", "the container would run as root: set runAsUser")
	}
	return u
}

func rootUser(s string) bool {
	name, _, _ := strings.Cut(s, ":")
	return name == "" || name == "0" || name == "root"
}

func deref(v *int64) []int64 {
	if v == nil {
		return nil
	}
	return []int64{*v}
}

func capabilities(c pod.Container) []string {
	caps := slices.Clone(DefaultCapabilities)
	if sc := c.SecurityContext; sc != nil && sc.Capabilities != nil {
		add, drop := sc.Capabilities.Add, sc.Capabilities.Drop
		if slices.ContainsFunc(add, pod.AllCapabilities) {
			caps = podpolicy.AllCapabilities()
		}
		if slices.ContainsFunc(drop, pod.AllCapabilities) {
			caps = nil
		}
		for _, a := range add {
			if !pod.AllCapabilities(a) {
				caps = append(caps, pod.CapabilityName(a))
			}
		}
		for _, d := range drop {
			caps = slices.DeleteFunc(caps, func(s string) bool { return s == pod.CapabilityName(d) })
		}
	}
	slices.Sort(caps)
	return slices.Compact(caps)
}
