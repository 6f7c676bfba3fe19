package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/host/sandbox"
)

// TestContainerdSandboxAPI starts the shim as containerd does for sandboxer = "shim": an
// empty bundle, the handler's options among the parameters on standard input, then the
// sandbox API, whose every call gets its answer, the last one too.
func TestContainerdSandboxAPI(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the shim's sockets are below " + socketDir)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	options, err := anypb.New(&runtimeoptions.Options{ConfigBody: []byte("tee = \"tpm-sim\"\nplatform = \"/none/platform.json\"\n")})
	if err != nil {
		t.Fatal(err)
	}
	options.TypeUrl = "runtimeoptions.v1.Options" // as containerd names it
	boot := &bootapi.BootstrapParams{InstanceID: "podapi", Namespace: "k8s.io", ContainerdVersion: "v2.4.2"}
	if err := boot.AddExtension(options); err != nil {
		t.Fatal(err)
	}
	for version, said := range map[string]proto.Message{"2.4": boot, "2.2": options} {
		t.Run(version, func(t *testing.T) {
			bundle := t.TempDir()
			if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o700); err != nil {
				t.Fatal(err)
			}
			stdin, err := proto.Marshal(said)
			if err != nil {
				t.Fatal(err)
			}
			cmd := osexec.Command(self, "-namespace", "k8s.io", "-address", filepath.Join(bundle, "containerd.sock"), "-publish-binary", "/usr/bin/containerd", "-id", "podapi", "start")
			cmd.Dir, cmd.Stdin = bundle, bytes.NewReader(stdin)
			cmd.Env = append(os.Environ(), asShim+"=1", "TTRPC_ADDRESS=", "NAMESPACE=k8s.io")
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("start: %v", err)
			}
			said := struct{ Address string }{strings.TrimSpace(string(out))}
			if version == "2.4" {
				if err := json.Unmarshal(out, &said); err != nil {
					t.Fatal(err)
				}
			}
			path := strings.TrimPrefix(said.Address, "unix://")
			t.Cleanup(func() { _ = os.Remove(path) })
			conn, err := net.DialTimeout("unix", path, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			client := ttrpc.NewClient(conn)
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			svc := sandboxapi.NewTTRPCSandboxClient(client)
			if _, err := svc.StartSandbox(ctx, &sandboxapi.StartSandboxRequest{SandboxID: "podapi"}); status.Code(err) != codes.NotFound {
				t.Errorf("a start before the creation: %v", err)
			}
			if p, err := svc.Platform(ctx, &sandboxapi.PlatformRequest{SandboxID: "podapi"}); err != nil || p.Platform.OS != "linux" {
				t.Errorf("platform: %v, %v", p, err)
			}
			create := &sandboxapi.CreateSandboxRequest{SandboxID: "podapi", BundlePath: bundle, Options: &anypb.Any{TypeUrl: criConfigType, Value: goldenConfig(t)}}
			if _, err := svc.CreateSandbox(ctx, create); err != nil {
				t.Fatalf("create: %v", err)
			}
			if _, err := svc.CreateSandbox(ctx, create); status.Code(err) != codes.AlreadyExists {
				t.Errorf("a second creation: %v", err)
			}
			if st, err := svc.SandboxStatus(ctx, &sandboxapi.SandboxStatusRequest{SandboxID: "podapi"}); err != nil || st.State != sandboxNotReady || st.Pid != 0 {
				t.Errorf("the status of a sandbox that was not started: %v, %v", st, err)
			}
			// The options came with start: the complaint is about the pod.
			if _, err := svc.StartSandbox(ctx, &sandboxapi.StartSandboxRequest{SandboxID: "podapi"}); err == nil || !strings.Contains(err.Error(), "seal it with coffer seal") {
				t.Errorf("starting a pod that nobody has sealed: %v", err)
			}
			if _, err := svc.StopSandbox(ctx, &sandboxapi.StopSandboxRequest{SandboxID: "podapi"}); err != nil {
				t.Errorf("stopping what was not started: %v", err)
			}
			if _, err := svc.ShutdownSandbox(ctx, &sandboxapi.ShutdownSandboxRequest{SandboxID: "another"}); status.Code(err) != codes.NotFound {
				t.Errorf("another sandbox's shutdown: %v", err)
			}
			if _, err := svc.ShutdownSandbox(ctx, &sandboxapi.ShutdownSandboxRequest{SandboxID: "podapi"}); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			for _, err = os.Stat(path); err == nil && ctx.Err() == nil; _, err = os.Stat(path) {
				time.Sleep(20 * time.Millisecond)
			}
			if !os.IsNotExist(err) {
				t.Errorf("the shim that was shut down leaves its socket: %v", err)
			}
		})
	}
}

// still is a TEE that ends when it is destroyed.
type still struct{ done chan struct{} }

func (s *still) Dial(context.Context, byte) (net.Conn, error) { return nil, errors.New("no") }
func (s *still) Wait() sandbox.Exit                           { <-s.done; return sandbox.Exit{Reason: "destroyed"} }
func (s *still) PIDs() map[string]int                         { return map[string]int{"qemu": 7} }
func (s *still) Destroy() error {
	select {
	case <-s.done:
	default:
		close(s.done)
	}
	return nil
}

// TestSandboxAPIStates: what containerd hears of a sandbox that runs, is stopped, and is
// stopped again; the sandbox's task is the same pod by its other door.
func TestSandboxAPIStates(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	ev := &publisher{address: "/none", queue: make(chan *types.Envelope, 8), log: log}
	s := newService("pod1", t.TempDir(), nil, ev, func() {}, log)
	tee := &still{make(chan struct{})}
	s.pod = &pod{id: "pod1", vm: tee, pid: 7, policy: new(podpolicy.Policy), done: tee.done, log: log, dir: filepath.Join(t.TempDir(), "none")}
	box := &container{proc: newProc(stdio{}), id: "pod1", sandbox: true, silent: true, createdAt: time.Unix(1_700_000_000, 0), execs: map[string]*exec{}}
	box.move(task.Status_CREATED, task.Status_RUNNING)
	s.containers["pod1"] = box
	go s.watchVM(s.pod)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()

	st, err := s.SandboxStatus(ctx, &sandboxapi.SandboxStatusRequest{SandboxID: "pod1", Verbose: true})
	if err != nil || st.State != "SANDBOX_READY" || st.Pid != 7 || st.CreatedAt.AsTime().Unix() != 1_700_000_000 || !json.Valid([]byte(st.Info["info"])) {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := s.PingSandbox(ctx, &sandboxapi.PingRequest{SandboxID: "pod1"}); err != nil {
		t.Error(err)
	}
	if m, err := s.SandboxMetrics(ctx, &sandboxapi.SandboxMetricsRequest{SandboxID: "pod1"}); err != nil || m.Metrics.ID != "pod1" || !strings.HasPrefix(m.Metrics.Data.TypeUrl, "io.containerd.cgroups.") {
		t.Errorf("%v, %v", m, err)
	}
	if p, err := s.Pids(ctx, &api.PidsRequest{ID: "pod1"}); err != nil || len(p.Processes) != 1 { // containerd asks after its restart
		t.Errorf("%v, %v", p, err)
	}
	if _, err := s.UpdateSandbox(ctx, &sandboxapi.UpdateSandboxRequest{SandboxID: "pod1"}); status.Code(err) != codes.Unimplemented {
		t.Error(err)
	}
	if _, err := s.Shutdown(ctx, &api.ShutdownRequest{ID: "c1"}); err != nil { // a container's end is not the pod's
		t.Error(err)
	}
	for _, id := range []string{"another", ""} {
		if _, err := s.StopSandbox(ctx, &sandboxapi.StopSandboxRequest{SandboxID: id}); status.Code(err) != codes.NotFound {
			t.Errorf("%q: %v", id, err)
		}
	}
	waited := make(chan *sandboxapi.WaitSandboxResponse, 1)
	go func() {
		w, err := s.WaitSandbox(ctx, &sandboxapi.WaitSandboxRequest{SandboxID: "pod1"})
		if err != nil {
			t.Error(err)
		}
		waited <- w
	}()
	for range 2 {
		if _, err := s.StopSandbox(ctx, &sandboxapi.StopSandboxRequest{SandboxID: "pod1", TimeoutSecs: 5}); err != nil {
			t.Error(err)
		}
	}
	if w := <-waited; w.GetExitStatus() != killed {
		t.Errorf("%v", w)
	}
	if st, err = s.SandboxStatus(ctx, &sandboxapi.SandboxStatusRequest{SandboxID: "pod1"}); err != nil || st.State != "SANDBOX_NOTREADY" || st.ExitedAt.AsTime().IsZero() || st.Info != nil {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := s.PingSandbox(ctx, &sandboxapi.PingRequest{SandboxID: "pod1"}); err == nil {
		t.Error("a sandbox that has ended answers a ping")
	}
	if len(ev.queue) != 0 {
		t.Errorf("%d events of a task that containerd does not have", len(ev.queue))
	}
}

// TestNothingToTell: CRI-O gives no address for events, and the shim's end does not wait
// for one.
func TestNothingToTell(t *testing.T) {
	p := newPublisher("", "default", slog.New(slog.DiscardHandler))
	s := newService("pod", t.TempDir(), nil, p, func() {}, slog.New(slog.DiscardHandler))
	s.exited(&container{id: "c"}, "", newProc(stdio{}), 0)
	began := time.Now()
	p.close(5 * time.Second)
	if d := time.Since(began); d > time.Second {
		t.Errorf("the end took %s", d)
	}
}

// TestShownSpec: what NRI's plug-ins see of the sandbox is a spec that they can read.
func TestShownSpec(t *testing.T) {
	a, err := (&podSpec{netns: "/run/netns/x", cgroup: "/kubepods/x"}).shown()
	if err != nil {
		t.Fatal(err)
	}
	s := new(specs.Spec)
	if err := json.Unmarshal(a.Value, s); err != nil || s.Linux.CgroupsPath != "/kubepods/x" || s.Linux.Namespaces[0].Path != "/run/netns/x" || !strings.HasPrefix(a.TypeUrl, "types.containerd.io/") {
		t.Errorf("%s, %v", a, err)
	}
}
