package spec

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/owner/pod"
)

const (
	manifestDigest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	indexDigest    = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
)

func fakeImage() *ResolvedImage {
	return &ResolvedImage{
		Reference: "registry.example/library/app@" + indexDigest, ManifestDigest: manifestDigest, IndexDigest: indexDigest, LayerBytes: 10 << 20,
		Config: &manifest.Config{OS: "linux", Architecture: "amd64", Config: manifest.ContainerConfig{
			User: "app:app", Env: []string{"PATH=/app/bin", "LANG=C"}, Entrypoint: []string{"/entry"}, Cmd: []string{"serve", "-x"},
			WorkingDir: "/srv", Volumes: map[string]struct{}{"/data": {}}, StopSignal: "SIGQUIT",
		}},
	}
}

func build(t testing.TB, source string, opts Options) (*podpolicy.Policy, *Plan) {
	t.Helper()
	p, err := pod.Parse([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]*ResolvedImage{}
	for _, c := range p.All() {
		images[c.Image] = fakeImage()
	}
	policy, plan, err := Build(p, images, opts)
	if err != nil {
		t.Fatal(err)
	}
	return policy, plan
}

// enforcer takes the policy the way it travels.
func enforcer(t testing.TB, policy *podpolicy.Policy) *podpolicy.Enforcer {
	t.Helper()
	b, err := podpolicy.Encode(policy)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := podpolicy.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return podpolicy.NewEnforcer(parsed)
}

func allow(t testing.TB, e *podpolicy.Enforcer, r proto.Message) {
	t.Helper()
	g, err := e.Authorize(r)
	if err != nil {
		t.Fatalf("%T: %v", r, err)
	}
	g.Done(nil)
}

func published(t testing.TB) map[string]string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		files, _ := filepath.Glob(filepath.Join(dir, "shared/manifests/*.yaml"))
		if len(files) == 0 {
			continue
		}
		out := map[string]string{}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			out[filepath.Base(f)] = string(b)
		}
		return out
	}
	if os.Getenv("CI") == "true" { // a missing mount must not pass for a green run
		t.Fatal("shared/manifests is not there")
	}
	t.Skip("shared/manifests is not there")
	return nil
}

// before plays the plan up to the creation of the container named until ("" for
// the whole plan).
func play(t testing.TB, e *podpolicy.Enforcer, plan *Plan, until string) {
	t.Helper()
	allow(t, e, plan.Interface())
	allow(t, e, plan.Routes())
	allow(t, e, plan.CreateSandbox("pod1"))
	if err := plan.CopyFiles(func(r *agentpb.CopyFileRequest) error { allow(t, e, r); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, c := range plan.All() {
		if c.Name == until {
			return
		}
		id := c.Name + "-1"
		allow(t, e, c.Create(id, "pod1"))
		allow(t, e, &agentpb.StartContainerRequest{ContainerId: id})
		allow(t, e, &agentpb.ReadStreamRequest{ContainerId: id, Len: 1})
		allow(t, e, &agentpb.WaitProcessRequest{ContainerId: id})
		allow(t, e, &agentpb.SignalProcessRequest{ContainerId: id, Signal: c.StopSignal})
		if c.Init {
			e.Exited(id, "", 0)
			allow(t, e, &agentpb.RemoveContainerRequest{ContainerId: id})
		}
	}
}

// TestPlansAreWhatPoliciesAllow is the package's promise, for pods that nobody
// here wrote: each request of the plan is authorised, and a host's changes of it
// are denied.
func TestPlansAreWhatPoliciesAllow(t *testing.T) {
	for name, source := range published(t) {
		t.Run(name, func(t *testing.T) {
			policy, plan := build(t, source, Options{})
			play(t, enforcer(t, policy), plan, "")
			for _, c := range plan.All() {
				for what, change := range hostChanges {
					e := enforcer(t, policy)
					play(t, e, plan, c.Name)
					r := c.Create("x1", "pod1")
					same := proto.CloneOf(r)
					if change(r); proto.Equal(r, same) {
						continue
					}
					if _, err := e.Authorize(r); err == nil {
						t.Errorf("%s: %s was allowed", c.Name, what)
					}
					allow(t, e, same)
				}
			}
			for what, change := range fileChanges {
				e := enforcer(t, policy)
				allow(t, e, plan.CreateSandbox("pod1"))
				err := plan.CopyFiles(func(r *agentpb.CopyFileRequest) error {
					if r.FileMode&0o170000 == 0o100000 {
						changed := proto.CloneOf(r)
						change(changed)
						if _, err := e.Authorize(changed); err == nil {
							t.Errorf("%s: %s was allowed", r.Path, what)
						}
					}
					allow(t, e, r)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

var hostChanges = map[string]func(*agentpb.CreateContainerRequest){
	"another digest": func(r *agentpb.CreateContainerRequest) {
		r.Storages[0].Source = strings.Replace(r.Storages[0].Source, indexDigest, manifestDigest, 1)
	},
	"another digest everywhere": func(r *agentpb.CreateContainerRequest) {
		swap := func(s string) string { return strings.ReplaceAll(s, indexDigest, manifestDigest) }
		r.Storages[0].Source, r.Storages[0].DriverOptions[0] = swap(r.Storages[0].Source), swap(r.Storages[0].DriverOptions[0])
		r.OCI.Annotations[podpolicy.AnnotationImage] = swap(r.OCI.Annotations[podpolicy.AnnotationImage])
	},
	"a tag": func(r *agentpb.CreateContainerRequest) { r.Storages[0].Source = "registry.example/library/app:latest" },
	"LD_PRELOAD": func(r *agentpb.CreateContainerRequest) {
		r.OCI.Process.Env = append(r.OCI.Process.Env, "LD_PRELOAD=/x.so")
	},
	"a missing env":   func(r *agentpb.CreateContainerRequest) { r.OCI.Process.Env = r.OCI.Process.Env[1:] },
	"another env":     func(r *agentpb.CreateContainerRequest) { r.OCI.Process.Env[len(r.OCI.Process.Env)-1] += "x" },
	"another command": func(r *agentpb.CreateContainerRequest) { r.OCI.Process.Args = []string{"/bin/sh"} },
	"another user":    func(r *agentpb.CreateContainerRequest) { r.OCI.Process.User.UID++ },
	"a capability": func(r *agentpb.CreateContainerRequest) {
		r.OCI.Process.Capabilities.Effective = append(slices.Clone(r.OCI.Process.Capabilities.Effective), "CAP_SYS_ADMIN")
	},
	"a mount": func(r *agentpb.CreateContainerRequest) {
		r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: "/host", Source: "/", Type: "bind"})
	},
	"a storage": func(r *agentpb.CreateContainerRequest) {
		r.Storages = append(r.Storages, &agentpb.Storage{Driver: "blk", Source: "02/01", MountPoint: "/run/x"})
	},
	"no mounts": func(r *agentpb.CreateContainerRequest) { r.OCI.Mounts = nil },
	"a hook": func(r *agentpb.CreateContainerRequest) {
		r.OCI.Hooks = &agentpb.Hooks{Prestart: []*agentpb.Hook{{Path: "/x"}}}
	},
	"a device":    func(r *agentpb.CreateContainerRequest) { r.Devices = []*agentpb.Device{{ContainerPath: "/dev/x"}} },
	"no masking":  func(r *agentpb.CreateContainerRequest) { r.OCI.Linux.MaskedPaths = nil },
	"annotations": func(r *agentpb.CreateContainerRequest) { r.OCI.Annotations["io.kubernetes.cri.x"] = "y" },
	"a terminal":  func(r *agentpb.CreateContainerRequest) { r.OCI.Process.Terminal = !r.OCI.Process.Terminal },
	"an id": func(r *agentpb.CreateContainerRequest) {
		r.ContainerId = "shared"
		r.OCI.Root.Path = strings.ReplaceAll(r.OCI.Root.Path, "x1", "shared")
		r.Storages[0].MountPoint = r.OCI.Root.Path
	},
	"limits": func(r *agentpb.CreateContainerRequest) {
		r.OCI.Linux.Resources = &agentpb.LinuxResources{Memory: &agentpb.LinuxMemory{Limit: 1 << 40}}
	},
}

var fileChanges = map[string]func(*agentpb.CopyFileRequest){
	"content":  func(r *agentpb.CopyFileRequest) { r.Data = append([]byte(nil), r.Data...); r.Data[0] ^= 1 },
	"a link":   func(r *agentpb.CopyFileRequest) { r.FileMode = 0o120777 },
	"dot dot":  func(r *agentpb.CopyFileRequest) { r.Path += "/../../../etc/passwd" },
	"mode":     func(r *agentpb.CopyFileRequest) { r.FileMode |= 0o111 },
	"an owner": func(r *agentpb.CopyFileRequest) { r.Uid = 5 },
}

func container(policy *podpolicy.Policy) *podpolicy.Container { return &policy.Containers[0] }

func envOf(c *podpolicy.Container) map[string]string {
	out := map[string]string{}
	for _, v := range c.Env {
		if v.Value != nil {
			out[v.Name] = *v.Value
		} else {
			out[v.Name] = "sha256:" + v.SHA256
		}
	}
	return out
}

const podHead = `
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
`

func TestImageMerge(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		args []string
	}{
		"image alone":      {"", []string{"/entry", "serve", "-x"}},
		"args":             {"args: [a]", []string{"/entry", "a"}},
		"command":          {"command: [c]", []string{"c"}},
		"command and args": {"command: [c]\n    args: [a, $(LANG), $(HOSTNAME)]", []string{"c", "a", "$(LANG)", "$(HOSTNAME)"}}, // the image's variables are not the pod's
	} {
		t.Run(name, func(t *testing.T) {
			policy, _ := build(t, podHead+"  containers:\n  - name: app\n    image: x\n    "+c.yaml+"\n", Options{})
			if got := container(policy).Args; !slices.Equal(got, c.args) {
				t.Errorf("got %q, want %q", got, c.args)
			}
		})
	}
	policy, plan := build(t, podHead+"  containers:\n  - {name: app, image: x, tty: true, env: [{name: LANG, value: de}]}\n", Options{})
	c := container(policy)
	env := envOf(c)
	if env["PATH"] != "/app/bin" || env["HOSTNAME"] != "web" || env["TERM"] != "xterm" || env["LANG"] != "de" || len(env) != 4 {
		t.Errorf("env %v", env)
	}
	if c.Cwd != "/srv" || c.User.Image != "app:app" || c.User.UID != nil || !slices.Equal(c.ImageVolumes, []string{"/data"}) || !slices.Equal(c.Signals, []uint32{2, 3, 9, 15}) {
		t.Errorf("%+v", c)
	}
	if plan.Containers[0].StopSignal != 3 || !c.Terminal || c.Seccomp != "unconfined" || slices.Contains(c.Capabilities, "CAP_MKNOD") {
		t.Errorf("%+v", c)
	}
}

func TestSecurityAndResources(t *testing.T) {
	policy, plan := build(t, podHead+`
  securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, supplementalGroups: [4000], runAsNonRoot: true, seccompProfile: {type: RuntimeDefault},
    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]}
  containers:
  - name: app
    image: x
    securityContext: {runAsUser: 2001, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL], add: [NET_ADMIN, CAP_SYS_TIME]}}
    resources: {limits: {cpu: 1500m, memory: 300Mi}, requests: {cpu: 500m}}
    volumeMounts: [{name: d, mountPath: /d/}]
  - name: side
    image: x
    resources: {limits: {cpu: "1", memory: 100Mi}}
    securityContext: {seccompProfile: {type: Unconfined}, capabilities: {add: [ALL], drop: [CHOWN]}}
  volumes: [{name: d, emptyDir: {medium: Memory, sizeLimit: 1Gi}}, {name: unused, emptyDir: {}}]
`, Options{Exec: map[string][]podpolicy.Exec{"": {{Args: []string{"id"}}}, "side": {{Any: true}}}, HideLogs: map[string]bool{"side": true}})
	app, side := &policy.Containers[0], &policy.Containers[1]
	if *app.User.UID != 2001 || *app.User.GID != 3000 || !slices.Equal(app.User.AdditionalGIDs, []uint32{4000, 2000}) || !app.User.NonRoot || app.User.Image != "" {
		t.Errorf("user %+v", app.User)
	}
	if !app.ReadOnly || !app.NoNewPrivileges || app.Seccomp != "runtime-default" || !slices.Equal(app.Capabilities, []string{"CAP_NET_ADMIN", "CAP_SYS_TIME"}) {
		t.Errorf("%+v", app)
	}
	if side.Seccomp != "unconfined" || len(side.Capabilities) != 40 || side.NoNewPrivileges || side.Logs || !app.Logs || len(side.Exec) != 2 || len(app.Exec) != 1 {
		t.Errorf("%+v", side)
	}
	if r := app.Resources; r != (podpolicy.Resources{MemoryBytes: 300 << 20, CPUQuota: 150000, CPUPeriod: 100000, CPUShares: 512}) {
		t.Errorf("%+v", r)
	}
	if len(policy.Volumes) != 2 || policy.Volumes[1].Kind != podpolicy.VolumeServiceAccount || !policy.Volumes[0].Memory || policy.Volumes[0].SizeLimit != 1<<30 || *policy.Volumes[0].GID != 2000 || app.Mounts[0].Destination != "/d" {
		t.Errorf("%+v", policy.Volumes)
	}
	if plan.VCPUs != 3 || plan.MemoryMiB != 768 { // 400 + 128 + 30 for the image once
		t.Errorf("%d vCPUs, %d MiB", plan.VCPUs, plan.MemoryMiB)
	}
	play(t, enforcer(t, policy), plan, "")
}

func TestSmallPodFitsTheSmallestVM(t *testing.T) {
	_, plan := build(t, podHead+"  containers: [{name: app, image: x, resources: {limits: {memory: 64Mi}}}]\n", Options{})
	if plan.MemoryMiB != 256 || plan.VCPUs != 2 {
		t.Errorf("%d MiB, %d vCPUs", plan.MemoryMiB, plan.VCPUs)
	}
}

// TestAllCapabilitiesInAnyCase: as containerd compares.
func TestAllCapabilitiesInAnyCase(t *testing.T) {
	for field, want := range map[string]int{"drop: [all]": 0, "drop: [All], add: [CHOWN]": 1, "add: [all]": len(podpolicy.AllCapabilities()), "add: [aLL], drop: [CHOWN]": len(podpolicy.AllCapabilities()) - 1} {
		policy, _ := build(t, podHead+"  containers: [{name: app, image: x, securityContext: {capabilities: {"+field+"}}}]\n", Options{})
		if got := container(policy).Capabilities; len(got) != want || slices.Contains(got, "CAP_all") {
			t.Errorf("%s: %q", field, got)
		}
	}
}

// TestWordsOfTheCluster: the policy takes what only the cluster knows by its grammar.
func TestWordsOfTheCluster(t *testing.T) {
	policy, plan := build(t, podHead+`
  containers:
  - name: app
    image: x
    env:
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: HOSTS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
    - {name: UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
`, Options{})
	got := map[string]string{}
	for _, v := range container(policy).Env {
		if v.From != "" {
			got[v.Name] = v.From
		}
	}
	want := map[string]string{"IP": "pod-ip", "IPS": "pod-ips", "NODE": "node-name", "HOST": "host-ip", "HOSTS": "host-ips", "UID": "pod-uid"}
	if !maps.Equal(got, want) || len(plan.Notes) != 0 {
		t.Errorf("%v, notes %q", got, plan.Notes)
	}
}

func TestSecretsStayOutOfThePolicy(t *testing.T) {
	source := `
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {password: hunter2hunter2, LD_PRELOAD: x}
---` + podHead + `
  containers:
  - name: app
    image: x
    env:
    - {name: P, valueFrom: {secretKeyRef: {name: s, key: password}}}
    - {name: URL, value: "https://u:$(P)@h"}
%s    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, secret: {secretName: s, items: [{key: password, path: a/p, mode: 0400}]}}]
`
	policy, plan := build(t, fmt.Sprintf(source, ""), Options{})
	b, _ := podpolicy.Encode(policy)
	if strings.Contains(string(b), "hunter2") || len(plan.Notes) != 0 {
		t.Errorf("%s %q", b, plan.Notes)
	}
	if e := envOf(container(policy)); !strings.HasPrefix(e["P"], "sha256:") || !strings.HasPrefix(e["URL"], "sha256:") {
		t.Errorf("%v", e)
	}
	play(t, enforcer(t, policy), plan, "")
	_, plan = build(t, fmt.Sprintf(source, "    args: [\"$(P)\"]\n"), Options{})
	if len(plan.Notes) != 1 || strings.Contains(plan.Notes[0], "hunter2") || !strings.HasPrefix(plan.Notes[0], "spec.containers[0]: ") {
		t.Errorf("%q", plan.Notes)
	}
	p, err := pod.Parse([]byte(fmt.Sprintf(source, "    envFrom: [{secretRef: {name: s}}]\n")))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Build(p, map[string]*ResolvedImage{"x": fakeImage()}, Options{})
	if err == nil || !strings.Contains(err.Error(), "spec.containers[0].env: LD_PRELOAD") || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

// The path of the termination message goes into the policy as it is, once it is known to
// lie where nothing else is.
func TestTerminationMessagePath(t *testing.T) {
	pod1 := func(m string) string {
		return podHead + "  containers:\n  - {name: app, image: x, terminationMessagePath: " + m + ", volumeMounts: [{name: v, mountPath: /vol}]}\n  volumes: [{name: v, emptyDir: {}}]\n"
	}
	for m, want := range map[string]string{"/dev/termination-log": "", "/dev//termination-log": "", "/run/words/last": "/run/words/last", "/run/words/": "/run/words"} {
		policy, _ := build(t, pod1(m), Options{})
		if got := container(policy).Termination; got != want {
			t.Errorf("%s became %q, want %q", m, got, want)
		}
	}
	for m, want := range map[string]string{"/vol/last": "/vol", "/data/last": "/data", "/etc/hosts": "/etc/hosts", "/proc/last": "may not be"} { // the image has a VOLUME /data
		p, err := pod.Parse([]byte(pod1(m)))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = Build(p, map[string]*ResolvedImage{"x": fakeImage()}, Options{})
		if err == nil || !strings.Contains(err.Error(), "spec.containers[0].terminationMessagePath: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want the field and %q", m, err, want)
		}
	}
}

func TestBuildReportsAllProblems(t *testing.T) {
	p, err := pod.Parse([]byte(podHead + `
  securityContext: {runAsNonRoot: true}
  containers: [{name: a, image: x}, {name: b, image: gone}]
`))
	if err != nil {
		t.Fatal(err)
	}
	img := fakeImage()
	img.Config.Config = manifest.ContainerConfig{User: "0:0", StopSignal: "SIGWHAT"}
	_, _, err = Build(p, map[string]*ResolvedImage{"x": img}, Options{})
	for _, want := range []string{"spec.containers[0].command: missing", "spec.containers[0].securityContext.runAsNonRoot", "SIGWHAT", "spec.containers[1].image: gone was not resolved"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}
