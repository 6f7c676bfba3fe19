package hostile

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/owner/pod"
	"github.com/cofferproject/coffer/owner/spec"
	"github.com/cofferproject/coffer/test/agentns"
)

const manifestText = `
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {a.conf: "level=very", b.conf: "x"}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  initContainers: [{name: prepare, image: x, command: [workload], volumeMounts: [{name: v, mountPath: /c}]}]
  containers:
  - {name: app, image: x, env: [{name: A, value: "1"}], livenessProbe: {exec: {command: [workload, probe, now]}}, lifecycle: {preStop: {exec: {command: [workload, stop]}}}, volumeMounts: [{name: v, mountPath: /c}, {name: e, mountPath: /e}]}
  - {name: side, image: x}
  volumes: [{name: v, configMap: {name: c}}, {name: e, emptyDir: {}}]
`

// TestMain lets the test binary be the processes of an agent in namespaces.
func TestMain(m *testing.M) {
	agentns.Main(func(args []string) int {
		if len(args) == 1 && args[0] == "sleep" {
			time.Sleep(time.Hour)
		}
		return 0
	})
	os.Exit(m.Run())
}

func plan(t *testing.T) (*podpolicy.Policy, *spec.Plan) {
	t.Helper()
	p, err := pod.Parse([]byte(manifestText))
	if err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + strings.Repeat("1", 64)
	policy, plan, err := spec.Build(p, map[string]*spec.ResolvedImage{"x": {
		Reference: "registry.example/x@" + digest, ManifestDigest: digest, Config: &manifest.Config{Config: manifest.ContainerConfig{Cmd: []string{"workload", "sleep"}, Env: []string{"PATH=/bin"}}},
	}}, spec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return policy, plan
}

// errJudged ends a call once it is judged: the guest of this test does nothing.
var errJudged = errors.New("judged")

// serve offers an agent that enforces a policy and does nothing else.
func serve(t *testing.T, judge func(proto.Message) error) string {
	t.Helper()
	s, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(func(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		_, err := method(ctx, func(v any) error {
			if err := unmarshal(v); err != nil {
				return err
			}
			if err := judge(v.(proto.Message)); err != nil {
				return err
			}
			return errJudged
		})
		if errors.Is(err, errJudged) {
			return &emptypb.Empty{}, nil // an empty message of every type
		}
		return nil, err
	}))
	if err != nil {
		t.Fatal(err)
	}
	agentpb.RegisterAgentServiceService(s, nil)
	dir, err := os.MkdirTemp("", "hostile")
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(context.Background(), l) }()
	t.Cleanup(func() { _ = s.Close(); _ = os.RemoveAll(dir) })
	return sock
}

// enforcing judges as the agent does and plays the containers' exits.
func enforcing(e *podpolicy.Enforcer) func(proto.Message) error {
	return func(m proto.Message) error {
		g, err := e.Authorize(m)
		if err != nil {
			d, _ := denial.As(err)
			b, _ := json.Marshal(d.Public())
			return status.Errorf(codes.PermissionDenied, "%s is blocked by policy: %s", m.ProtoReflect().Descriptor().Name(), b)
		}
		g.Done(nil)
		if _, ok := m.(*agentpb.StartContainerRequest); ok && g.Init {
			e.Exited(g.ContainerID, "", 0)
		}
		return nil
	}
}

func play(t *testing.T, judge func(proto.Message) error, pl *spec.Plan) []Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	target, closeTarget, err := Dial(ctx, serve(t, judge), pl, "pod1")
	if err != nil {
		t.Fatal(err)
	}
	defer closeTarget()
	rs, err := target.Fresh(ctx)
	if err != nil {
		for _, r := range rs {
			t.Log(r)
		}
		t.Fatal(err)
	}
	if err := target.Start(ctx); err != nil {
		t.Fatal(err)
	}
	rs = append(rs, target.Running(ctx)...)
	if err := target.Alive(ctx); err != nil {
		t.Error(err)
	}
	return rs
}

func TestEveryAttackIsDenied(t *testing.T) {
	policy, pl := plan(t)
	rs := play(t, enforcing(podpolicy.NewEnforcer(policy)), pl)
	for _, r := range rs {
		if r.Err != nil || r.Denial.Reason == NotApplicable {
			t.Error(r)
		}
	}
	if len(rs) < 50 {
		t.Errorf("only %d attacks", len(rs))
	}
}

// TestTheHarnessCanFail: an agent that allows everything fails every attack.
func TestTheHarnessCanFail(t *testing.T) {
	_, pl := plan(t)
	rs := play(t, func(proto.Message) error { return nil }, pl)
	if n := len(Failures(rs)); n != len(rs) {
		t.Errorf("%d of %d attacks fail against an agent that allows everything", n, len(rs))
	}
}

// TestARealAgentInNamespaces plays the host against the guest's own agent and
// containers, without a virtual machine.
func TestARealAgentInNamespaces(t *testing.T) {
	if info, ok := debug.ReadBuildInfo(); ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "CGO_ENABLED" && s.Value == "1" }) {
		t.Skip("the containers' program is this test binary, which must be static: CGO_ENABLED=0")
	}
	policy, pl := plan(t)
	a := agentns.Start(t, policy, agentns.Layer(t))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	target := &Target{Agent: a, Plan: pl, SandboxID: "pod1", IDs: map[string]string{}, NoNetwork: true, CallTimeout: 20 * time.Second}
	rs, err := target.Fresh(ctx)
	if err != nil {
		t.Error(err)
	} else if err := target.Start(ctx); err != nil {
		t.Error(err)
	} else {
		rs = append(rs, target.Running(ctx)...)
		if err := target.Alive(ctx); err != nil {
			t.Error(err)
		}
	}
	for _, r := range Failures(rs) {
		t.Error(r)
	}
}
