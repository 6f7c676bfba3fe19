package run

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
)

// fakeAgent is a guest whose pulls take as long as the caller waits and whose
// processes run until they are signalled.
type fakeAgent struct {
	agentpb.AgentServiceService
	creating, starting chan struct{}
	create             func(context.Context) error
	start              func()

	mu      sync.Mutex
	started bool
	signals []uint32
	ended   chan struct{}
}

func newFakeAgent() *fakeAgent {
	return &fakeAgent{creating: make(chan struct{}), starting: make(chan struct{}), ended: make(chan struct{})}
}

func (f *fakeAgent) CreateContainer(ctx context.Context, _ *agentpb.CreateContainerRequest) (*emptypb.Empty, error) {
	close(f.creating)
	if f.create != nil {
		return nil, f.create(ctx)
	}
	return &emptypb.Empty{}, nil
}

func (f *fakeAgent) StartContainer(context.Context, *agentpb.StartContainerRequest) (*emptypb.Empty, error) {
	close(f.starting)
	if f.start != nil {
		f.start()
	}
	f.mu.Lock()
	f.started = true
	f.mu.Unlock()
	return &emptypb.Empty{}, nil
}

func (f *fakeAgent) SignalProcess(_ context.Context, r *agentpb.SignalProcessRequest) (*emptypb.Empty, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signals = append(f.signals, r.Signal)
	if r.Signal == uint32(syscall.SIGKILL) { // it ignores the others
		close(f.ended)
	}
	return &emptypb.Empty{}, nil
}

func (f *fakeAgent) WaitProcess(context.Context, *agentpb.WaitProcessRequest) (*agentpb.WaitProcessResponse, error) {
	<-f.ended
	return &agentpb.WaitProcessResponse{Status: 137}, nil
}

func (f *fakeAgent) RemoveContainer(context.Context, *agentpb.RemoveContainerRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (f *fakeAgent) ReadStdout(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	<-f.ended
	return &agentpb.ReadStreamResponse{}, nil
}

func (f *fakeAgent) ReadStderr(ctx context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return f.ReadStdout(ctx, r)
}

func (f *fakeAgent) GetOOMEvent(ctx context.Context, _ *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// supervise runs one container and gives its supervisor and, in time, its exit code.
func supervise(t *testing.T, f *fakeAgent, grace time.Duration) (*supervisor, <-chan int) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, logDir), 0o700); err != nil {
		t.Fatal(err)
	}
	specs := []containerSpec{{name: "app", restart: "Always", create: func(string) *agentpb.CreateContainerRequest {
		return &agentpb.CreateContainerRequest{}
	}}}
	s := newSupervisor(&agent{AgentServiceService: f}, specs)
	s.grace, s.maxRestarts = grace, -1
	s.warn = func(format string, args ...any) { t.Logf(format, args...) }
	var mu sync.Mutex
	s.sink = func(name string) (*logSink, error) { return newLogSink(&mu, t.Output(), dir, name, false, func() {}) }
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		defer cancel()
		c, err := s.run(ctx, specs)
		if err != nil {
			t.Error(err)
		}
		code <- c
	}()
	return s, code
}

func exitCode(t *testing.T, code <-chan int) int {
	t.Helper()
	select {
	case c := <-code:
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("the pod did not end")
		return 0
	}
}

// TestStopDuringThePull: a pod that is stopped while its image is pulled ends
// without having run.
func TestStopDuringThePull(t *testing.T) {
	f := newFakeAgent()
	f.create = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	s, code := supervise(t, f, time.Minute)
	<-f.creating
	s.stop()
	if c := exitCode(t, code); c != 143 {
		t.Errorf("exit code %d, want 143", c)
	}
	if f.started {
		t.Error("the container was started after the pod was stopped")
	}
}

// TestStopDuringTheStart: a container that starts while the pod is stopped gets
// its signal and, after the grace period, SIGKILL.
func TestStopDuringTheStart(t *testing.T) {
	f := newFakeAgent()
	stopped := make(chan struct{})
	f.start = func() { <-stopped; time.Sleep(100 * time.Millisecond) }
	s, code := supervise(t, f, 200*time.Millisecond)
	<-f.starting
	s.stop()
	close(stopped)
	if c := exitCode(t, code); c != 137 {
		t.Errorf("exit code %d, want 137", c)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.signals) != 2 || f.signals[0] != uint32(syscall.SIGTERM) {
		t.Errorf("signals %v, want SIGTERM and SIGKILL", f.signals)
	}
}
