package shim

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
)

const digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func ptr[T any](v T) *T { return &v }

func testPolicy() *podpolicy.Policy {
	sum := sha256.Sum256([]byte("colour: blue"))
	return &podpolicy.Policy{
		Version: podpolicy.Version, Pod: "default/web", Hostname: "web",
		Sandbox: podpolicy.Sandbox{ResolvConf: "host", ShmBytes: 64 << 20},
		Volumes: []podpolicy.Volume{
			{Name: "config", Kind: podpolicy.VolumeFiles, Files: map[string]podpolicy.File{"app.yaml": {SHA256: hex.EncodeToString(sum[:]), Size: 12, Mode: 0o644}}},
			{Name: "scratch", Kind: podpolicy.VolumeEmptyDir},
		},
		Containers: []podpolicy.Container{{
			Name: "app", Image: "registry.example/app@" + digest, ManifestDigest: digest, Args: []string{"/app", "serve"},
			Env: []podpolicy.EnvVar{{Name: "PATH", Value: ptr("/bin")}, {Name: "HOSTNAME", Value: ptr("web")}}, ServiceLinks: podpolicy.ServiceLinksAll,
			Cwd: "/", User: podpolicy.User{Image: "app"}, Capabilities: []string{"CAP_CHOWN", "CAP_KILL"}, Seccomp: "unconfined",
			MaskedPaths: []string{"/proc/kcore"}, ReadOnlyPaths: []string{"/proc/sys"},
			Mounts: []podpolicy.Mount{
				{Volume: "config", Destination: "/etc/app", ReadOnly: true}, {Volume: "scratch", Destination: "/data"},
				{Volume: "scratch", Destination: "/logs", SubPath: "logs"},
			},
			ImageVolumes: []string{"/var/cache"}, Resources: podpolicy.Resources{MemoryBytes: 64 << 20}, Restart: "Always", Logs: true,
			Exec: []podpolicy.Exec{{Args: []string{"/app", "healthy"}}, {Args: []string{"/app", "shell"}, TTY: true}},
		}},
	}
}

// bundle is what containerd makes of such a pod on a node: other orders, lists and
// numbers than the policy's, and all that a node adds.
func bundle(pods string) *specs.Spec {
	dir := filepath.Join(pods, "0f1e")
	bind := func(source, dest string, options ...string) specs.Mount {
		return specs.Mount{Source: source, Destination: dest, Type: "bind", Options: append([]string{"rbind", "rprivate"}, options...)}
	}
	caps := []string{"CAP_KILL", "CAP_MKNOD", "CAP_CHOWN"}
	return &specs.Spec{
		Version: "1.3.0", Root: &specs.Root{Path: "rootfs"}, Hostname: "",
		Process: &specs.Process{
			User: specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{102}}, Args: []string{"/app", "serve"}, Cwd: "/",
			Env:          []string{"HOSTNAME=web", "PATH=/bin", "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_PORT=tcp://10.96.0.1:443"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup"},
			bind(dir+"/volumes/kubernetes.io~configmap/config", "/etc/app", "ro"),
			bind(dir+"/volumes/kubernetes.io~empty-dir/scratch", "/data", "rw"),
			bind(dir+"/volume-subpaths/scratch/app/2", "/logs", "rw"),
			bind(dir+"/volumes/kubernetes.io~projected/kube-api-access-x", podpolicy.ServiceAccountDir, "ro"),
			bind(dir+"/etc-hosts", "/etc/hosts", "rw"), bind(dir+"/containers/app/9d2b", "/dev/termination-log", "rw"),
			bind("/run/containerd/sandboxes/x/resolv.conf", "/etc/resolv.conf", "rw"), bind("/run/containerd/sandboxes/x/shm", "/dev/shm", "rw"),
			bind("/var/lib/containerd/volumes/1", "/var/cache", "rw"),
		},
		Annotations: map[string]string{criType: typeContainer, criSandbox: "pod1", criName: "app"},
		Linux: &specs.Linux{
			MaskedPaths: []string{"/proc/asound", "/proc/kcore"}, ReadonlyPaths: []string{"/proc/bus", "/proc/sys"},
			Resources: &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20))},
				CPU:    &specs.LinuxCPU{Shares: ptr(uint64(2)), Quota: ptr(int64(0)), Period: ptr(uint64(100000))},
			},
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/run/netns/x"}}, CgroupsPath: "/kubepods/x",
			Seccomp: &specs.LinuxSeccomp{},
		},
	}
}

// guest is an Enforcer in the state in which a container may be created.
func guest(t *testing.T, p *podpolicy.Policy) *podpolicy.Enforcer {
	t.Helper()
	e := podpolicy.NewEnforcer(p)
	g, err := e.Authorize(p.CreateSandboxRequest("pod1", nil))
	if err != nil {
		t.Fatal(err)
	}
	g.Done(nil)
	v := p.Volume("config")
	for _, r := range append([]*agentpb.CopyFileRequest{podpolicy.CopyDirRequest(v, "")}, podpolicy.CopyFileRequests(v, "app.yaml", []byte("colour: blue"))...) {
		g, err := e.Authorize(r)
		if err != nil {
			t.Fatal(err)
		}
		g.Done(nil)
	}
	return e
}

// TestWhatANodeAddsIsAllowed: the guest allows what the shim makes of a bundle of
// an unchanged pod.
func TestWhatANodeAddsIsAllowed(t *testing.T) {
	p := testPolicy()
	e := guest(t, p)
	pods := filepath.Join(t.TempDir(), "pods")
	if err := os.MkdirAll(filepath.Join(pods, "0f1e/volumes/kubernetes.io~empty-dir/scratch"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := bundle(pods)
	p.Containers[0].Cwd, s.Process.Cwd = "/srv/app", "/srv//x/../app/" // as the pod or the image says it
	r, err := create(p, &p.Containers[0], s, "c1", "pod1")
	if err != nil {
		t.Fatal(err)
	}
	g, err := e.Authorize(r)
	if err != nil {
		t.Fatal(err)
	}
	g.Done(nil)
	g, err = e.Authorize(&agentpb.StartContainerRequest{ContainerId: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	g.Done(nil)
	probe := *s.Process
	probe.Args = []string{"/app", "healthy"}
	if _, err := e.Authorize(execute(p, &p.Containers[0], &probe, "c1", "x1")); err != nil {
		t.Errorf("a declared probe: %v", err)
	}
	terminal := *s.Process
	terminal.Args, terminal.Terminal, terminal.Env = []string{"/app", "shell"}, true, append(slices.Clone(s.Process.Env), "TERM=xterm") // containerd's own addition
	if _, err := e.Authorize(execute(p, &p.Containers[0], &terminal, "c1", "x3")); err != nil {
		t.Errorf("a command with a terminal: %v", err)
	}
	probe.Args = []string{"/bin/sh"}
	if _, err := e.Authorize(execute(p, &p.Containers[0], &probe, "c1", "x2")); err == nil {
		t.Error("another command was allowed")
	}
}

// TestWhatTheHostChangesIsDenied: the shim does not make a changed bundle look like
// the policy.
func TestWhatTheHostChangesIsDenied(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason denial.Reason
		change func(*specs.Spec)
	}{
		{"another command", podpolicy.ArgsMismatch, func(s *specs.Spec) { s.Process.Args = []string{"/app", "serve", "--insecure"} }},
		{"another directory", podpolicy.ArgsMismatch, func(s *specs.Spec) { s.Process.Cwd = "/tmp" }},
		{"another directory, with a slash", podpolicy.ArgsMismatch, func(s *specs.Spec) { s.Process.Cwd = "/tmp/" }},
		{"no directory", podpolicy.ArgsMismatch, func(s *specs.Spec) { s.Process.Cwd = "" }},
		{"a directory without its root", podpolicy.ArgsMismatch, func(s *specs.Spec) { s.Process.Cwd = "." }},
		{"the pod's processes", podpolicy.UnexpectedField, func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" }},
		{"the node's processes", podpolicy.UnexpectedField, func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }},
		{"a variable more", podpolicy.EnvUnexpected, func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "LD_PRELOAD=/x.so") }},
		{"a service that is no address", podpolicy.EnvUnexpected, func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "DB_SERVICE_HOST=evil") }},
		{"another value", podpolicy.EnvMismatch, func(s *specs.Spec) { s.Process.Env[1] = "PATH=/evil" }},
		{"a variable less", podpolicy.EnvMissing, func(s *specs.Spec) { s.Process.Env = s.Process.Env[1:] }},
		{"a host path", podpolicy.MountUnexpected, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Source: "/etc", Destination: "/host", Type: "bind"})
		}},
		{"a host path over a volume", podpolicy.MountMismatch, func(s *specs.Spec) { s.Mounts[3].Source = "/etc" }},
		{"another volume", podpolicy.MountMismatch, func(s *specs.Spec) { s.Mounts[3].Source = s.Mounts[4].Source }},
		{"a read-only volume", podpolicy.MountMismatch, func(s *specs.Spec) { s.Mounts[4].Options = []string{"rbind", "ro"} }},
		{"a mount less", podpolicy.MountMissing, func(s *specs.Spec) { s.Mounts = slices.Delete(s.Mounts, 4, 5) }},
		{"more capabilities", podpolicy.PrivilegeMismatch, func(s *specs.Spec) {
			s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
		}},
		{"a privileged container", podpolicy.PrivilegeMismatch, func(s *specs.Spec) { s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil }},
		{"a read-only root", podpolicy.PrivilegeMismatch, func(s *specs.Spec) { s.Root.Readonly = true }},
		{"a terminal", podpolicy.ArgsMismatch, func(s *specs.Spec) { s.Process.Terminal = true }},
		{"more memory", podpolicy.ResourceMismatch, func(s *specs.Spec) { *s.Linux.Resources.Memory.Limit *= 2 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := testPolicy()
			s := bundle("/var/lib/kubelet/pods")
			c.change(s)
			r, err := create(p, &p.Containers[0], s, "c1", "pod1")
			if err != nil {
				t.Fatal(err)
			}
			_, err = guest(t, p).Authorize(r)
			if d, ok := denial.As(err); !ok || d.Reason != c.reason {
				t.Errorf("%v, want %s", err, c.reason)
			}
		})
	}
}

func TestVolumePaths(t *testing.T) {
	for source, want := range map[string][2]string{
		"/var/lib/kubelet/pods/u/volumes/kubernetes.io~secret/s":     {"s", "/var/lib/kubelet/pods/u/volumes/kubernetes.io~secret/s"},
		"/var/lib/kubelet/pods/u/volumes/kubernetes.io~secret/s/sub": {"s", "/var/lib/kubelet/pods/u/volumes/kubernetes.io~secret/s"},
		"/var/lib/kubelet/pods/u/volume-subpaths/s/c/0":              {"s", ""},
		"/etc":                              {"", ""},
		"/var/lib/kubelet/pods/u/etc-hosts": {"", ""},
	} {
		name, dir, _ := volumeOf(source)
		if name != want[0] || dir != want[1] {
			t.Errorf("%s: %q in %q, want %q", source, name, dir, want)
		}
	}
}

// The kubelet's file for the last words is known by its folder and by the policy's path.
func TestTerminationFile(t *testing.T) {
	const file = "/var/lib/kubelet/pods/6b1f/containers/app/9d2b"
	for _, c := range []struct {
		policy, source, dest string
		want                 bool
	}{
		{"", file, "/dev/termination-log", true},
		{"", file, "/run/words/last", false},
		{"/run/words/last", file, "/run/words/last", true},
		{"/run/words/last", file, "/run/words/../words/last", true},
		{"/run/words/last", file, "/dev/termination-log", false},
		{"/run/words/last", "/var/lib/kubelet/pods/6b1f/volumes/kubernetes.io~empty-dir/last", "/run/words/last", false},
		{"/run/words/last", "/etc/shadow", "/run/words/last", false},
	} {
		got, ok := terminationFile(&podpolicy.Container{Termination: c.policy}, &specs.Mount{Source: c.source, Destination: c.dest})
		if ok != c.want || ok && got != file {
			t.Errorf("%+v: %q, %v", c, got, ok)
		}
	}
}
