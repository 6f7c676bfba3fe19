package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cofferproject/coffer/owner/spec"
)

// crioPatience bounds each wait: a pod in a process starts in 2 s on a quiet machine.
const crioPatience = time.Minute

const crioScript = `trap "echo stopping; echo gone > /dev/termination-log; exit 3" TERM; echo here is $(hostname); while true; do sleep 0.1; done`

var crioPod = fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: app
    image: docker.io/library/busybox
    command: [sh, -c, %q]
`, crioScript)

// TestCRIO plays CRI-O's side of runtime_type = "vm" against the shim and a pod in a
// process: its arguments, its bundles, its calls in their order (internal/oci/runtime_vm.go,
// from which nothing is copied).
func TestCRIO(t *testing.T) {
	t.Parallel()
	c, ns, annotations := sealedForShim(t)
	home := c.dir
	sandbox := c.bundle("crio-sandbox.json", func(s *specs.Spec) {
		maps.Copy(s.Annotations, annotations)
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				s.Linux.Namespaces[i].Path = ns
			}
		}
		for i := range s.Mounts {
			if s.Mounts[i].Destination == "/etc/resolv.conf" {
				s.Mounts[i].Source = write(t, home, "resolv.conf", "search default.svc.cluster.local\nnameserver 10.96.0.10\n")
			}
		}
	}, "io.kubernetes.cri-o.SandboxID")
	c.create(sandbox)
	c.start(sandbox.id, "")

	last := filepath.Join(home, "pods", "0f1e", "containers", "app") // the kubelet's
	if err := os.MkdirAll(last, 0o700); err != nil {
		t.Fatal(err)
	}
	app := c.container(filepath.Join(last, "message"))
	c.create(app)
	c.alive(app.id, "created, not started")
	c.start(app.id, "")
	app.wait("here is web\n")

	if out, code := c.exec(app, "sh", "-c", "cat /etc/resolv.conf; exit 5"); code != 5 || !strings.Contains(out, "10.96.0.10") {
		t.Errorf("exec: %q, %d", out, code)
	}
	c.stats(app.id)
	c.alive(app.id, "running")
	c.alive(sandbox.id, "running")
	c.reconnect(app) // CRI-O was restarted
	if st := c.state(app.id); st.Status != tasktypes.Status_RUNNING || st.Pid == 0 || st.Bundle != app.dir || st.Stdout != app.stdout {
		t.Errorf("%v", st)
	}

	if code := c.stop(app.id, syscall.SIGTERM); code != 3 {
		t.Errorf("the container ended with %d, want 3", code)
	}
	app.wait("stopping\n")
	if b, err := os.ReadFile(filepath.Join(last, "message")); string(b) != "gone\n" {
		t.Errorf("termination message %q, %v", b, err)
	}
	if st := c.state(app.id); st.Status != tasktypes.Status_STOPPED || st.ExitStatus != 3 || st.ExitedAt.AsTime().IsZero() {
		t.Errorf("%v", st)
	}
	if _, err := os.Stat(filepath.Join(app.dir, "oom")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a container that was not killed for memory has an OOM file: %v", err)
	}
	if _, err := c.task.Kill(c.ctx(), &task.KillRequest{ID: app.id}); status.Code(err) != codes.NotFound {
		t.Errorf("an ended container is alive: %v", err)
	}
	c.remove(app.id)
	c.alive(sandbox.id, "without containers")

	shim := c.shimPID(sandbox.id)
	c.stop(sandbox.id, syscall.SIGTERM)
	c.remove(sandbox.id)
	gone(t, shim)
	if _, err := os.Stat(c.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its socket is left: %v", err)
	}
	if left := c.runDirs(); len(left) != 0 {
		t.Errorf("left in its run directory: %v", left)
	}
}

// sealedForShim seals crioPod for a process and gives a client of the shim, a network for
// the pod and the pod's annotations.
func sealedForShim(t *testing.T) (c *crio, ns string, annotations map[string]string) {
	t.Helper()
	home := shared.newHome(t)
	ns, node := podNetwork(t)
	registries := shared.mirrorAt(t, node)
	trustee := shared.startTrustee(t, home, node+":0")
	file, _ := shared.seal(t, home, crioPod, append([]string{"--tee", "sgx-sim", "--allow-exec", "--registries", registries}, trustee.flags()...)...)
	config := write(t, home, "coffer.toml", `tee = "sgx-sim"
run_dir = "`+filepath.Join(home, "shim")+`"
`)
	c = &crio{t: t, dir: home, config: config, program: filepath.Join(shared.bin, "containerd-shim-coffer-v2")}
	return c, ns, annotationsOf(t, file)
}

// crio is the client.
type crio struct {
	t                    *testing.T
	dir, config, program string
	socket               string
	client               *ttrpc.Client
	task                 task.TTRPCTaskService
	mu                   sync.Mutex
	log                  bytes.Buffer // the shim's
}

// crioBundle is a container's bundle with the FIFO of its output.
type crioBundle struct {
	rootfs          []*types.Mount // what the node would mount as the container's root
	t               *testing.T
	id, dir, stdout string
	spec            *specs.Spec
	mu              sync.Mutex
	out             bytes.Buffer
}

func (c *crio) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), crioPatience)
	c.t.Cleanup(cancel)
	return ctx
}

// bundle writes a bundle from one of host/shim's of CRI-O, changed for this machine.
func (c *crio) bundle(name string, change func(*specs.Spec), id string) *crioBundle {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "host", "shim", "testdata", name))
	if err != nil {
		c.t.Fatal(err)
	}
	// Ids of this run's own: the shim's socket is named after them.
	b = regexp.MustCompile(`\b[0-9a-f]{56}([0-9a-f]{8})\b`).ReplaceAll(b, []byte(fmt.Sprintf("%056x$1", os.Getpid())))
	s := new(specs.Spec)
	if err := json.Unmarshal(b, s); err != nil {
		c.t.Fatal(err)
	}
	change(s)
	if b, err = json.Marshal(s); err != nil {
		c.t.Fatal(err)
	}
	out := &crioBundle{t: c.t, id: s.Annotations[id], dir: filepath.Join(c.dir, strings.TrimSuffix(name, ".json")), spec: s}
	if err := os.Mkdir(out.dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	write(c.t, out.dir, "config.json", string(b))
	out.stdout = c.fifo(out.dir, "stdout", lockedWriter{&out.mu, &out.out})
	return out
}

// container writes the bundle of crioPod's container.
func (c *crio) container(message string, more ...func(*specs.Spec)) *crioBundle {
	c.t.Helper()
	return c.bundle("crio-container.json", func(s *specs.Spec) {
		s.Process.Args = []string{"sh", "-c", crioScript}
		s.Process.Env = []string{"HOSTNAME=web", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "KUBERNETES_SERVICE_HOST=10.96.0.1"}
		s.Process.User = specs.User{}
		s.Linux.Resources.Memory = nil // a library OS keeps no limit
		s.Mounts = withoutVolumes(s.Mounts)
		for i := range s.Mounts {
			if s.Mounts[i].Destination == "/dev/termination-log" {
				s.Mounts[i].Source = message
			}
		}
		caps := spec.DefaultCapabilities // default_capabilities in crio.conf
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		for _, f := range more {
			f(s)
		}
	}, "io.kubernetes.cri-o.ContainerID")
}

// fifo makes a FIFO and copies what comes out of it.
func (c *crio) fifo(dir, name string, w io.Writer) string {
	c.t.Helper()
	path := filepath.Join(dir, name)
	if err := syscall.Mkfifo(path, 0o700); err != nil {
		c.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = f.Close() })
	go func() { _, _ = io.Copy(w, f) }()
	return path
}

func (b *crioBundle) wait(want string) {
	b.t.Helper()
	for end := time.Now().Add(crioPatience); ; time.Sleep(20 * time.Millisecond) {
		b.mu.Lock()
		out := b.out.String()
		b.mu.Unlock()
		if strings.Contains(out, want) {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("no %q in the output: %q", want, out)
		}
	}
}

// create starts the shim's program for a container, as for each, and creates its task.
func (c *crio) create(b *crioBundle) {
	c.t.Helper()
	c.fifo(b.dir, "log", lockedWriter{&c.mu, &c.log})
	cmd := exec.Command(c.program, "-namespace", "default", "-address", "", "-publish-binary", "/usr/bin/crio", "-id", b.id, "start")
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2", "MAX_SHIM_VERSION=2", "TTRPC_ADDRESS=", "GRPC_ADDRESS=", "NAMESPACE=default")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("start: %v: %s", err, out)
	}
	c.connect(strings.TrimSpace(string(out)))
	c.createTask(b)
}

// options are the runtime handler's, as containerd and CRI-O send them.
func (c *crio) options() *anypb.Any {
	c.t.Helper()
	b, err := proto.Marshal(&runtimeoptions.Options{ConfigPath: c.config})
	if err != nil {
		c.t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: b}
}

func (c *crio) createTask(b *crioBundle) {
	c.t.Helper()
	r, err := c.task.Create(c.ctx(), &task.CreateTaskRequest{ID: b.id, Bundle: b.dir, Stdout: b.stdout, Options: c.options(), Rootfs: b.rootfs})
	if err != nil || r.Pid == 0 {
		c.t.Fatalf("create: %v, %v", r, err)
	}
}

// connect reaches the shim at the address that start has said: a bare one, the same for
// all containers of a pod.
func (c *crio) connect(address string) {
	c.t.Helper()
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok || c.socket != "" && c.socket != path {
		c.t.Fatalf("the shim's address is %q, before %q", address, c.socket)
	}
	conn, err := net.DialTimeout("unix", path, 10*time.Second)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.socket == "" {
		c.t.Cleanup(func() { c.end() })
	}
	c.socket, c.client = path, ttrpc.NewClient(conn)
	c.task = task.NewTTRPCTaskClient(c.client)
	client := c.client
	c.t.Cleanup(func() { _ = client.Close() })
}

// end has the shim of a test that has failed end.
func (c *crio) end() {
	if !c.t.Failed() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t.Logf("the shim's log:\n%s", c.log.String())
	found, _ := filepath.Glob(filepath.Join(c.dir, "*", "shim.pid"))
	for _, f := range found {
		if b, err := os.ReadFile(f); err == nil {
			_ = exec.Command("kill", string(b)).Run()
		}
	}
}

func (c *crio) reconnect(b *crioBundle) {
	c.t.Helper()
	_ = c.client.Close()
	address, err := os.ReadFile(filepath.Join(b.dir, "address"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.connect(strings.TrimSpace(string(address)))
}

func (c *crio) start(id, execID string) {
	c.t.Helper()
	if _, err := c.task.Start(c.ctx(), &task.StartRequest{ID: id, ExecID: execID}); err != nil {
		c.t.Fatalf("start: %v", err)
	}
}

func (c *crio) state(id string) *task.StateResponse {
	c.t.Helper()
	st, err := c.task.State(c.ctx(), &task.StateRequest{ID: id})
	if err != nil {
		c.t.Fatalf("state: %v", err)
	}
	return st
}

// alive asks as CRI-O does, by signal 0, and demands that the question changes nothing.
func (c *crio) alive(id, what string) {
	c.t.Helper()
	before := c.state(id).Status
	if _, err := c.task.Kill(c.ctx(), &task.KillRequest{ID: id}); err != nil {
		c.t.Errorf("%s: %v", what, err)
	}
	if after := c.state(id).Status; after != before || after == tasktypes.Status_STOPPED {
		c.t.Errorf("%s: %v, then %v", what, before, after)
	}
}

func (c *crio) exec(b *crioBundle, args ...string) (string, uint32) {
	c.t.Helper()
	p := *b.spec.Process
	p.Args = args
	value, err := json.Marshal(&p)
	if err != nil {
		c.t.Fatal(err)
	}
	var mu sync.Mutex
	var out bytes.Buffer
	_, err = c.task.Exec(c.ctx(), &task.ExecProcessRequest{
		ID: b.id, ExecID: "x1", Stdout: c.fifo(b.dir, "x1-stdout", lockedWriter{&mu, &out}),
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: value},
	})
	if err != nil {
		c.t.Fatalf("exec: %v", err)
	}
	c.start(b.id, "x1")
	w, err := c.task.Wait(c.ctx(), &task.WaitRequest{ID: b.id, ExecID: "x1"})
	if err != nil {
		c.t.Fatalf("wait: %v", err)
	}
	if _, err := c.task.Delete(c.ctx(), &task.DeleteRequest{ID: b.id, ExecID: "x1"}); err != nil {
		c.t.Errorf("deleting the process: %v", err)
	}
	// All of it is in the FIFO by now, and the test may not have read it yet.
	said := func() string { mu.Lock(); defer mu.Unlock(); return out.String() }
	for end := time.Now().Add(crioPatience); said() == "" && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	return said(), w.ExitStatus
}

// stats reads a container's figures with all the parts that CRI-O takes for given.
func (c *crio) stats(id string) {
	c.t.Helper()
	r, err := c.task.Stats(c.ctx(), &task.StatsRequest{ID: id})
	if err != nil {
		c.t.Fatalf("stats: %v", err)
	}
	switch r.Stats.TypeUrl {
	case "io.containerd.cgroups.v1.Metrics":
		m := new(v1.Metrics)
		if err := proto.Unmarshal(r.Stats.Value, m); err != nil {
			c.t.Fatal(err)
		}
		mem := m.Memory
		if mem == nil || mem.Usage == nil || mem.Kernel == nil || mem.KernelTCP == nil || mem.Swap == nil || m.CPU == nil || m.CPU.Usage == nil || m.CPU.Throttling == nil || m.Pids == nil {
			c.t.Errorf("a part is missing: %v", m)
		}
	case "io.containerd.cgroups.v2.Metrics":
		m := new(v2.Metrics)
		if err := proto.Unmarshal(r.Stats.Value, m); err != nil {
			c.t.Fatal(err)
		}
		if m.Memory == nil || m.CPU == nil || m.Pids == nil {
			c.t.Errorf("a part is missing: %v", m)
		}
	default:
		c.t.Errorf("figures of type %s", r.Stats.TypeUrl)
	}
}

// stop waits and signals, in this order, and gives the exit code.
func (c *crio) stop(id string, sig syscall.Signal) uint32 {
	c.t.Helper()
	ended := make(chan *task.WaitResponse, 1)
	go func() {
		w, err := c.task.Wait(c.ctx(), &task.WaitRequest{ID: id})
		if err != nil {
			w = &task.WaitResponse{ExitStatus: 255}
		}
		ended <- w
	}()
	time.Sleep(50 * time.Millisecond)
	if _, err := c.task.Kill(c.ctx(), &task.KillRequest{ID: id, Signal: uint32(sig)}); err != nil {
		c.t.Fatalf("kill: %v", err)
	}
	return (<-ended).ExitStatus
}

// remove deletes a task and asks the shim to end, which it does with the last one.
func (c *crio) remove(id string) {
	c.t.Helper()
	if _, err := c.task.Delete(c.ctx(), &task.DeleteRequest{ID: id}); err != nil {
		c.t.Fatalf("delete: %v", err)
	}
	if _, err := c.task.Shutdown(c.ctx(), &task.ShutdownRequest{ID: id}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		c.t.Fatalf("shutdown: %v", err)
	}
}

func (c *crio) shimPID(id string) int {
	c.t.Helper()
	r, err := c.task.Connect(c.ctx(), &task.ConnectRequest{ID: id})
	if err != nil {
		c.t.Fatalf("connect: %v", err)
	}
	return int(r.ShimPid)
}

// withoutVolumes leaves out the kubelet's volumes, which crioPod has not.
func withoutVolumes(mounts []specs.Mount) []specs.Mount {
	var out []specs.Mount
	for _, m := range mounts {
		if !strings.Contains(m.Source, "/volume") && m.Destination != "/var/cache" {
			out = append(out, m)
		}
	}
	return out
}
