package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/runtime/task/v2"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// asShim makes the test's own binary the shim: start runs the same program again.
const asShim = "COFFER_TEST_AS_SHIM"

func TestMain(m *testing.M) {
	if os.Getenv(asShim) == "1" {
		if err := Main(os.Args[1:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestContainerd17 starts the shim as containerd 1.7 does: options on standard input,
// a bare address as the answer, version 2 of the task API behind it, delete at the end.
func TestContainerd17(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the shim's sockets are below " + socketDir)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bundle := t.TempDir()
	spec, err := json.Marshal(&specs.Spec{Version: "1.1.0", Annotations: map[string]string{criType: typeSandbox, criSandbox: "pod17"}, Linux: &specs.Linux{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, specFile), spec, 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := proto.Marshal(&runtimeoptions.Options{TypeUrl: "io.containerd.coffer.v2", ConfigBody: []byte("tee = \"tpm-sim\"\nplatform = \"/none/platform.json\"\n")})
	if err != nil {
		t.Fatal(err)
	}
	options := &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: config}
	stdin, err := proto.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	containerd := filepath.Join(bundle, "containerd.sock")
	shim := func(action string) []byte {
		t.Helper()
		cmd := osexec.Command(self, "-namespace", "k8s.io", "-address", containerd, "-publish-binary", "/usr/bin/containerd", "-id", "pod17", action)
		cmd.Dir, cmd.Stdin = bundle, bytes.NewReader(stdin)
		cmd.Env = append(os.Environ(), asShim+"=1", "TTRPC_ADDRESS="+containerd+".ttrpc", "GRPC_ADDRESS="+containerd, "MAX_SHIM_VERSION=2", "NAMESPACE=k8s.io")
		var errb bytes.Buffer
		cmd.Stderr = &errb
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v: %s", action, err, errb.String())
		}
		return out
	}
	address := string(shim("start"))
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok || strings.ContainsAny(path, " \n{") {
		t.Fatalf("start said %q, want a bare address", address)
	}
	t.Cleanup(func() { _ = os.Remove(path) })
	conn, err := net.DialTimeout("unix", path, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client := ttrpc.NewClient(conn)
	defer client.Close()
	svc := task.NewTTRPCTaskClient(client)
	if c, err := svc.Connect(ctx, &task.ConnectRequest{ID: "pod17"}); err != nil || c.ShimPid == 0 {
		t.Errorf("connect: %v, %v", c, err)
	}
	if _, err := svc.State(ctx, &task.StateRequest{ID: "pod17"}); status.Code(err) != codes.NotFound {
		t.Errorf("the state of a task that was not created: %v", err)
	}
	if _, err := svc.Create(ctx, &task.CreateTaskRequest{ID: "pod17", Bundle: bundle, Options: options}); err == nil || !strings.Contains(err.Error(), "seal it with coffer seal") {
		t.Errorf("creating a pod that nobody has sealed: %v", err)
	}
	// It may be gone before its answer is, which containerd takes for done.
	if _, err := svc.Shutdown(ctx, &task.ShutdownRequest{ID: "pod17"}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		t.Errorf("shutdown: %v", err)
	}
	for _, err = os.Stat(path); err == nil && ctx.Err() == nil; _, err = os.Stat(path) {
		time.Sleep(20 * time.Millisecond)
	}
	if !os.IsNotExist(err) {
		t.Errorf("the shim that was shut down leaves its socket: %v", err)
	}
	deleted := new(task.DeleteResponse)
	if err := proto.Unmarshal(shim("delete"), deleted); err != nil || deleted.ExitStatus != killed {
		t.Errorf("delete: %v, %v", deleted, err)
	}
}

// oomAgent reports that the guest's kernel has killed each of these containers, then ends.
type oomAgent struct {
	agentpb.AgentServiceService
	killed []string
}

func (a *oomAgent) GetOOMEvent(context.Context, *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
	if len(a.killed) == 0 {
		return nil, io.EOF
	}
	id := a.killed[0]
	a.killed = a.killed[1:]
	return &agentpb.OOMEvent{ContainerId: id}, nil
}

// TestOOMFile: CRI-O learns of an OOM kill by a file in the container's bundle, and a
// guest's word about a container that is not there writes nothing.
func TestOOMFile(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	ev := newPublisher("", "k8s.io", log)
	s := newService("pod", t.TempDir(), nil, ev, func() {}, log)
	hit, spared := t.TempDir(), t.TempDir()
	s.containers["hit"] = &container{proc: newProc(stdio{}), id: "hit", bundle: hit}
	s.containers["spared"] = &container{proc: newProc(stdio{}), id: "spared", bundle: spared}
	s.watchOOM(t.Context(), &pod{agent: &oomAgent{killed: []string{"../elsewhere", "hit"}}})
	if _, err := os.Stat(filepath.Join(hit, "oom")); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(spared); err != nil || len(left) != 0 {
		t.Errorf("another container's bundle has %v (%v)", left, err)
	}
}

// TestUndeclaredContainer: a container that is not in the policy, as kubectl debug makes
// one, is refused with its id before anything of it reaches the guest (there is none here).
func TestUndeclaredContainer(t *testing.T) {
	s := newService("pod", t.TempDir(), nil, nil, func() {}, slog.New(slog.DiscardHandler))
	s.pod = &pod{policy: &podpolicy.Policy{Containers: []podpolicy.Container{{Name: "main"}}}}
	err := s.createContainer(t.Context(), &container{id: "c1"}, &specs.Spec{Annotations: map[string]string{criName: "debugger-x7k2p"}})
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `container-undeclared: container "debugger-x7k2p"`) {
		t.Errorf("%v", err)
	}
}

// TestDeleteAfterBothEnded: of a pod whose TEE ended first and whose shim was killed then,
// nothing stays; a folder with something in it is the supervisor's to judge.
func TestDeleteAfterBothEnded(t *testing.T) {
	for _, content := range []string{"", "supervisor.json"} {
		bundle, root := t.TempDir(), t.TempDir()
		dir := filepath.Join(root, "pod1")
		err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(bundle, runDirFile), []byte(root), 0o600))
		if content != "" {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, content), []byte("{"), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		a := &arguments{namespace: "k8s.io", id: "pod1", address: bundle, bundle: bundle}
		if err := a.delete(io.Discard); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); os.IsNotExist(err) != (content == "") {
			t.Errorf("a folder with %q: %v", content, err)
		}
	}
}
