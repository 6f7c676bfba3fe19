package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestSandboxAPI plays containerd's shim sandboxer against the shim and a pod in a
// process: the whole life of one, and the end of its TEE and then of its shim, of which
// nothing may stay. test/kube TestSandboxAPI has the real containerd.
func TestSandboxAPI(t *testing.T) {
	t.Parallel()
	c, ns, annotations := sealedForShim(t)
	message := filepath.Join(c.dir, "pods", "0f1e", "containers", "app", "message")
	if err := os.MkdirAll(filepath.Dir(message), 0o700); err != nil {
		t.Fatal(err)
	}

	p := c.startSandbox("whole", ns, annotations)
	app := c.container(message, func(s *specs.Spec) {
		s.Annotations = map[string]string{
			"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": p.id, "io.kubernetes.cri.container-name": "app",
			"io.kubernetes.cri-o.ContainerID": p.id + "-app",
		}
	})
	// As the published guest-pull snapshotter gives a root: nothing of it is mounted here.
	app.rootfs = []*types.Mount{{
		Type: "fuse.nydus-overlayfs", Source: "overlay",
		Options: []string{"lowerdir=/nonexistent", "io.katacontainers.volume=" + base64.StdEncoding.EncodeToString([]byte(`{"volume_type":"image_guest_pull","source":"registry.example/another@sha256:00","image_pull":{"metadata":{}}}`))},
	}}
	c.createTask(app)
	c.start(app.id, "")
	app.wait("here is web\n")
	if out, code := c.exec(app, "cat", "/etc/resolv.conf"); code != 0 || !strings.Contains(out, "nameserver 10.96.0.10\n") || !strings.Contains(out, "search default.svc.cluster.local\n") {
		t.Errorf("resolv.conf: %q, %d", out, code)
	}
	if code := c.stop(app.id, syscall.SIGTERM); code != 3 {
		t.Errorf("the container ended with %d, want 3", code)
	}
	c.remove(app.id)
	if st := p.status(); st.State != "SANDBOX_READY" || st.Pid != p.pid {
		t.Errorf("without containers: %v", st)
	}
	if _, err := p.svc.StopSandbox(c.ctx(), &sandboxapi.StopSandboxRequest{SandboxID: p.id}); err != nil {
		t.Errorf("stop: %v", err)
	}
	p.ended()
	if left := c.runDirs(); len(left) != 0 {
		t.Errorf("left of a stopped sandbox: %v", left)
	}
	shim := c.shimPID(p.id)
	if _, err := p.svc.ShutdownSandbox(c.ctx(), &sandboxapi.ShutdownSandboxRequest{SandboxID: p.id}); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	gone(t, shim)
	if _, err := os.Stat(c.socket); !os.IsNotExist(err) {
		t.Errorf("its socket is left: %v", err)
	}

	c.socket = ""
	ns, _ = podNetwork(t) // a library OS takes a namespace's addresses
	p = c.startSandbox("killed", ns, annotations)
	shim = c.shimPID(p.id)
	if err := syscall.Kill(int(p.pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.ended()
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, shim)
	out, err := c.shim(p.dir, p.id, "delete", nil).Output()
	deleted := new(task.DeleteResponse)
	if err != nil || proto.Unmarshal(out, deleted) != nil || deleted.ExitStatus != 137 {
		t.Errorf("delete: %v, %v", deleted, err)
	}
	if left := c.runDirs(); len(left) != 0 {
		t.Errorf("left after delete: %v", left)
	}
	if _, err := os.Stat(c.socket); !os.IsNotExist(err) {
		t.Errorf("its socket is left: %v", err)
	}
}

// apiSandbox is a sandbox of the sandbox API.
type apiSandbox struct {
	c       *crio
	id, dir string
	pid     uint32
	svc     sandboxapi.TTRPCSandboxService
}

func (c *crio) shim(dir, id, action string, stdin []byte) *exec.Cmd {
	cmd := exec.Command(c.program, "-namespace", "k8s.io", "-address", filepath.Join(c.dir, "containerd.sock"), "-publish-binary", "/usr/bin/containerd", "-id", id, "-bundle", dir, action)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2", "MAX_SHIM_VERSION=2", "TTRPC_ADDRESS=", "NAMESPACE=k8s.io")
	return cmd
}

// startSandbox does what containerd's controller does for a new pod.
func (c *crio) startSandbox(name, ns string, annotations map[string]string) *apiSandbox {
	c.t.Helper()
	p := &apiSandbox{c: c, id: fmt.Sprintf("%s-%d", name, os.Getpid()), dir: filepath.Join(c.dir, "api-"+name)}
	if err := os.MkdirAll(filepath.Join(p.dir, "rootfs"), 0o700); err != nil {
		c.t.Fatal(err)
	}
	c.fifo(p.dir, "log", lockedWriter{&c.mu, &c.log})
	boot := &bootapi.BootstrapParams{InstanceID: p.id, Namespace: "k8s.io", ContainerdVersion: "v2.4.2"}
	if err := boot.AddExtension(c.options()); err != nil {
		c.t.Fatal(err)
	}
	stdin, err := proto.Marshal(boot)
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := c.shim(p.dir, p.id, "start", stdin).CombinedOutput()
	if err != nil {
		c.t.Fatalf("start: %v: %s", err, out)
	}
	var said struct {
		Version  int
		Address  string
		Protocol string
	}
	if err := json.Unmarshal(out, &said); err != nil || said.Version != 3 || said.Protocol != "ttrpc" {
		c.t.Fatalf("start said %s (%v)", out, err)
	}
	c.connect(said.Address)
	p.svc = sandboxapi.NewTTRPCSandboxClient(c.client)
	_, err = p.svc.CreateSandbox(c.ctx(), &sandboxapi.CreateSandboxRequest{
		SandboxID: p.id, BundlePath: p.dir, NetnsPath: ns, Options: &anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: podConfig(annotations)},
	})
	if err != nil {
		c.t.Fatalf("create: %v", err)
	}
	r, err := p.svc.StartSandbox(c.ctx(), &sandboxapi.StartSandboxRequest{SandboxID: p.id})
	if err != nil || r.Pid == 0 || time.Since(r.CreatedAt.AsTime()) > time.Minute || !strings.Contains(string(r.Spec.GetValue()), ns) {
		c.t.Fatalf("start: %v, %v", r, err)
	}
	p.pid = r.Pid
	return p
}

func (p *apiSandbox) status() *sandboxapi.SandboxStatusResponse {
	p.c.t.Helper()
	st, err := p.svc.SandboxStatus(p.c.ctx(), &sandboxapi.SandboxStatusRequest{SandboxID: p.id})
	if err != nil {
		p.c.t.Fatalf("status: %v", err)
	}
	return st
}

// ended waits for the sandbox's end as containerd does.
func (p *apiSandbox) ended() {
	p.c.t.Helper()
	w, err := p.svc.WaitSandbox(p.c.ctx(), &sandboxapi.WaitSandboxRequest{SandboxID: p.id})
	if err != nil || w.ExitStatus != 137 || w.ExitedAt.AsTime().IsZero() {
		p.c.t.Errorf("wait: %v, %v", w, err)
	}
	if st := p.status(); st.State != "SANDBOX_NOTREADY" {
		p.c.t.Errorf("ended: %v", st)
	}
	if syscall.Kill(int(p.pid), 0) == nil {
		p.c.t.Errorf("the TEE's process is still there")
	}
}

// runDirs lists what pods have in the handler's run directory.
func (c *crio) runDirs() []string {
	var names []string
	entries, _ := os.ReadDir(filepath.Join(c.dir, "shim"))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

// podConfig encodes the part of a PodSandboxConfig that the pod needs.
func podConfig(annotations map[string]string) []byte {
	field := func(b []byte, num protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
	}
	text := func(num protowire.Number, s string) []byte { return field(nil, num, []byte(s)) }
	b := field(nil, 1, slices.Concat(text(1, "web"), text(2, "0f1e2d3c"), text(3, "default")))
	b = field(b, 4, slices.Concat(text(1, "10.96.0.10"), text(2, "default.svc.cluster.local")))
	for _, k := range slices.Sorted(maps.Keys(annotations)) {
		b = field(b, 7, slices.Concat(text(1, k), text(2, annotations[k])))
	}
	return b
}
