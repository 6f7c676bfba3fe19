package shim

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// fakeGuest is a guest that does as told; what it is told nothing about succeeds.
type fakeGuest struct {
	agentpb.AgentServiceService
	signal func(ctx context.Context, r *agentpb.SignalProcessRequest) error
	wait   func(ctx context.Context) (int32, error)
	// create is what CreateContainer waits for; enforcer judges it, if there is one.
	create   func(ctx context.Context) error
	start    func(ctx context.Context) error // StartContainer and ExecProcess
	enforcer *podpolicy.Enforcer
	flush    func(ctx context.Context) error // DestroySandbox
}

func (g *fakeGuest) DestroySandbox(ctx context.Context, _ *agentpb.DestroySandboxRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, g.flush(ctx)
}

// judged asks the guest's own judge of requests.
func (g *fakeGuest) judged(r proto.Message, do func() error) (*emptypb.Empty, error) {
	if g.enforcer == nil {
		return &emptypb.Empty{}, do()
	}
	grant, err := g.enforcer.Authorize(r)
	if d, ok := denial.As(err); ok {
		b, err := json.Marshal(d.Public())
		if err != nil {
			return nil, err
		}
		return nil, &guestError{status.Newf(codes.PermissionDenied, "blocked by policy: %s", b)}
	}
	err = do()
	grant.Done(err)
	return &emptypb.Empty{}, err
}

func (g *fakeGuest) CreateContainer(ctx context.Context, r *agentpb.CreateContainerRequest) (*emptypb.Empty, error) {
	return g.judged(r, func() error { return g.create(ctx) })
}

func (g *fakeGuest) StartContainer(ctx context.Context, r *agentpb.StartContainerRequest) (*emptypb.Empty, error) {
	return g.begin(ctx, r)
}

func (g *fakeGuest) ExecProcess(ctx context.Context, r *agentpb.ExecProcessRequest) (*emptypb.Empty, error) {
	return g.begin(ctx, r)
}

// begin goes on with a start that nobody waits for any more.
func (g *fakeGuest) begin(ctx context.Context, r proto.Message) (*emptypb.Empty, error) {
	begun := make(chan error, 1)
	go func() {
		_, err := g.judged(r, func() error { return g.start(ctx) })
		begun <- err
	}()
	select {
	case err := <-begun:
		return &emptypb.Empty{}, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *fakeGuest) ReadStdout(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return &agentpb.ReadStreamResponse{}, nil
}

func (g *fakeGuest) ReadStderr(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return &agentpb.ReadStreamResponse{}, nil
}

func (g *fakeGuest) CloseStdin(context.Context, *agentpb.CloseStdinRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (g *fakeGuest) RemoveContainer(_ context.Context, r *agentpb.RemoveContainerRequest) (*emptypb.Empty, error) {
	return g.judged(r, func() error { return nil })
}

func (g *fakeGuest) GetDiagnosticData(context.Context, *agentpb.GetDiagnosticDataRequest) (*agentpb.GetDiagnosticDataResponse, error) {
	return &agentpb.GetDiagnosticDataResponse{}, nil
}

func (g *fakeGuest) SignalProcess(ctx context.Context, r *agentpb.SignalProcessRequest) (*emptypb.Empty, error) {
	return g.judged(r, func() error {
		if g.signal == nil {
			return nil
		}
		return g.signal(ctx, r)
	})
}

func (g *fakeGuest) WaitProcess(ctx context.Context, _ *agentpb.WaitProcessRequest) (*agentpb.WaitProcessResponse, error) {
	code, err := g.wait(ctx)
	return &agentpb.WaitProcessResponse{Status: code}, err
}

// held is a TEE that ends when it is destroyed, however many do that at once.
type held struct {
	still
	once sync.Once
}

func (h *held) Destroy() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *held) ended() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

// podOf is a shim's service with a running pod of this guest.
func podOf(t *testing.T, g agentpb.AgentServiceService) (*Service, *held) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	ev := &publisher{address: "/none", queue: make(chan *types.Envelope, 64), log: log}
	s := newService("pod1", t.TempDir(), nil, ev, func() {}, log)
	tee := &held{still: still{make(chan struct{})}}
	s.pod = &pod{id: "pod1", vm: tee, pid: 7, policy: testPolicy(), done: tee.done, log: log, agent: g, config: &Config{}, copied: map[string]bool{}, dir: filepath.Join(t.TempDir(), "none")}
	go s.watchVM(s.pod)
	return s, tee
}

// ends waits for a process's end and gives its status.
func ends(t *testing.T, p *proc, within time.Duration) uint32 {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		t.Fatal("its end was not reported")
	}
	code, _ := p.result()
	return code
}
