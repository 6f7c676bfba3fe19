package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cofferproject/coffer/api/agentpb"
)

// Service is the task API, and the sandbox API, for one pod.
type Service struct {
	id     string // of the sandbox
	bundle string // the sandbox's
	// options are the handler's, where they came with start; nil: with Create.
	options *anypb.Any
	events  *publisher
	log     *slog.Logger
	stop    func() // ends the process, once nothing is left

	mu         sync.Mutex
	asked      *podSpec // what CreateSandbox has said; nil: nothing
	pod        *pod     // nil until the TEE is there
	launch     *launching
	containers map[string]*container
	creating   map[string]*creation // containers that the guest has yet to make
}

var _ api.TTRPCTaskService = (*Service)(nil)

func newService(id, bundle string, options *anypb.Any, ev *publisher, stop func(), log *slog.Logger) *Service {
	return &Service{id: id, bundle: bundle, options: options, events: ev, stop: stop, log: log, containers: map[string]*container{}, creating: map[string]*creation{}}
}

func notFound(format string, args ...any) error {
	return status.Errorf(codes.NotFound, format, args...)
}

// find gives a task and the pod that it is in.
func (s *Service) find(id string) (*container, *pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		return nil, nil, notFound("no task %s", id)
	}
	return c, s.pod, nil
}

// process gives one process of a task.
func (s *Service) process(id, execID string) (*container, *proc, *pod, error) {
	c, p, err := s.find(id)
	if err != nil {
		return nil, nil, nil, err
	}
	if execID == "" {
		return c, c.proc, p, nil
	}
	x := c.exec(execID)
	if x == nil {
		return nil, nil, nil, notFound("no process %s in task %s", execID, id)
	}
	return c, x.proc, p, nil
}

// Create makes the sandbox (launches the TEE) or a container in it (the guest
// pulls the image).
func (s *Service) Create(ctx context.Context, r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	spec, err := readSpec(r.Bundle)
	if err != nil {
		return nil, err
	}
	_, isSandbox, err := role(spec, r.ID)
	if err != nil {
		return nil, err
	}
	c := &container{
		proc: newProc(stdio{r.Stdin, r.Stdout, r.Stderr, r.Terminal}), id: r.ID, bundle: r.Bundle, sandbox: isSandbox, execs: map[string]*exec{},
	}
	began := time.Now()
	if isSandbox {
		var pod *podSpec
		if pod, err = ofBundle(spec); err == nil {
			err = s.hold(ctx, c, r.Options, pod)
		}
	} else {
		err = s.createContainer(ctx, c, spec)
	}
	if err != nil {
		s.log.Error("create failed", "task", r.ID, "error", err)
		return nil, err
	}
	pid := s.pidOf()
	s.log.Info("created", "task", r.ID, "sandbox", isSandbox, "duration", time.Since(began))
	s.events.send(&events.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Checkpoint: r.Checkpoint, Pid: pid,
		IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	return &api.CreateTaskResponse{Pid: pid}, nil
}

// launching is a launch under way.
type launching struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended, either way
}

// abort ends a launch under way, if there is one, and waits for its end.
func (s *Service) abort() {
	s.mu.Lock()
	l := s.launch
	s.mu.Unlock()
	if l != nil {
		l.cancel()
		<-l.done
	}
}

// hold launches the pod's TEE and watches over it; box stands for it among the tasks.
func (s *Service) hold(ctx context.Context, box *container, options *anypb.Any, spec *podSpec) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &launching{cancel: cancel, done: make(chan struct{})}
	defer close(l.done)
	s.mu.Lock()
	have := s.pod != nil || s.launch != nil
	if !have {
		s.launch = l
	}
	s.mu.Unlock()
	if have {
		return status.Error(codes.AlreadyExists, "this shim has its pod")
	}
	defer func() {
		s.mu.Lock()
		s.launch = nil
		s.mu.Unlock()
	}()
	cfg, err := configOf(options)
	if err != nil {
		return err
	}
	// Where the shim's own delete finds the folder after a crash.
	if err := os.WriteFile(filepath.Join(box.bundle, runDirFile), []byte(cfg.RunDir), 0o600); err != nil {
		return fmt.Errorf("recording the run directory: %w", err)
	}
	p, err := launchPod(ctx, box.id, cfg, spec, s.log)
	if err != nil {
		return err
	}
	box.createdAt = time.Now()
	s.mu.Lock()
	if err := ctx.Err(); err != nil { // aborted
		s.mu.Unlock()
		p.flushing.Do(func() {})
		return errors.Join(err, p.destroy())
	}
	s.pod = p
	s.containers[box.id] = box
	s.mu.Unlock()
	debug.SetMemoryLimit(math.MaxInt64)
	debug.SetGCPercent(restGC)
	go debug.FreeOSMemory()
	go s.watchVM(p)
	go s.watchOOM(context.WithoutCancel(ctx), p) // as long as the TEE
	return nil
}

// watchVM ends every task when the TEE has ended.
func (s *Service) watchVM(p *pod) {
	exit := p.vm.Wait()
	s.log.Info("the TEE ended", "reason", exit.Reason, "detail", exit.Detail)
	if exit.Console != "" {
		s.log.Info("console, last lines", "text", exit.Console)
	}
	s.mu.Lock()
	var all []*container
	var box *container
	for _, c := range s.containers {
		if c.sandbox {
			box = c
			continue
		}
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.execMu.Lock()
		for id, x := range c.execs {
			s.exited(c, id, x.proc, killed)
		}
		c.execMu.Unlock()
		s.exited(c, "", c.proc, killed)
	}
	if box != nil {
		s.exited(box, "", box.proc, killed)
	}
}

// exited records a process's end, once, and tells containerd.
func (s *Service) exited(c *container, execID string, p *proc, code uint32) {
	if !p.ended(code) {
		return
	}
	if st := p.copying(); st != nil {
		st.close()
	}
	id := execID
	if id == "" {
		id = c.id
	}
	if c.silent {
		return
	}
	_, at := p.result()
	s.events.send(&events.TaskExit{ContainerID: c.id, ID: id, Pid: s.pidOf(), ExitStatus: code, ExitedAt: timestamppb.New(at)})
}

func (s *Service) pidOf() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod == nil {
		return 0
	}
	return s.pod.pid
}

// State tells of a process.
func (s *Service) State(_ context.Context, r *api.StateRequest) (*api.StateResponse, error) {
	c, p, pod, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	out := &api.StateResponse{
		ID: c.id, Bundle: c.bundle, Pid: pod.pid, Status: p.shown(), Stdin: p.io.in, Stdout: p.io.out, Stderr: p.io.err, Terminal: p.io.terminal, ExecID: r.ExecID,
	}
	if out.Status == task.Status_STOPPED {
		code, at := p.result()
		out.ExitStatus, out.ExitedAt = code, timestamppb.New(at)
	}
	return out, nil
}

// Wait waits for a process's end.
func (s *Service) Wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	_, p, _, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	code, at := p.result()
	return &api.WaitResponse{ExitStatus: code, ExitedAt: timestamppb.New(at)}, nil
}

// stopPod ends the TEE, once its volumes are written out.
func (s *Service) stopPod(ctx context.Context, box *container, p *pod) error {
	flushed := make(chan struct{})
	go func() { p.flush(); close(flushed) }()
	select {
	case <-flushed:
	case <-ctx.Done(): // it goes on; whoever asks again waits for it
		return ctx.Err()
	}
	if err := p.vm.Destroy(); err != nil {
		return err
	}
	s.exited(box, "", box.proc, killed)
	return nil
}

// Delete forgets an ended process and removes what it had.
func (s *Service) Delete(ctx context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	if r.ExecID == "" && s.abandon(ctx, r.ID) {
		return nil, notFound("no task %s: its creation was given up", r.ID)
	}
	c, p, pod, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	switch p.state() {
	case task.Status_STOPPED:
	case task.Status_CREATED:
		s.exited(c, r.ExecID, p, killed)
	default:
		if r.ExecID == "" || !p.disown() {
			return nil, status.Error(codes.FailedPrecondition, "the process runs: it must be killed first")
		}
		c.execMu.Lock()
		delete(c.execs, r.ExecID)
		c.execMu.Unlock()
		return &api.DeleteResponse{Pid: pod.pid, ExitStatus: killed, ExitedAt: timestamppb.Now()}, nil
	}
	code, at := p.result()
	out := &api.DeleteResponse{Pid: pod.pid, ExitStatus: code, ExitedAt: timestamppb.New(at)}
	if r.ExecID != "" {
		c.execMu.Lock()
		delete(c.execs, r.ExecID)
		c.execMu.Unlock()
		return out, nil
	}
	if c.sandbox {
		if err := pod.destroy(); err != nil {
			s.log.Error("destroying the pod", "error", err)
		}
	} else {
		s.remove(ctx, c, pod)
	}
	s.mu.Lock()
	delete(s.containers, c.id)
	s.mu.Unlock()
	s.events.send(&events.TaskDelete{ContainerID: c.id, Pid: pod.pid, ExitStatus: code, ExitedAt: timestamppb.New(at)})
	return out, nil
}

// Exec registers a further process; Start starts it.
func (s *Service) Exec(_ context.Context, r *api.ExecProcessRequest) (*emptypb.Empty, error) {
	c, p, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	if c.sandbox {
		return nil, status.Error(codes.FailedPrecondition, "the sandbox has no processes")
	}
	spec := new(specs.Process)
	if err := json.Unmarshal(r.Spec.GetValue(), spec); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "reading the process: %v", err)
	}
	spec.Terminal = r.Terminal
	spec.Env = p.variables(c.policy, spec.Env) // containerd takes the container's
	x := &exec{proc: newProc(stdio{r.Stdin, r.Stdout, r.Stderr, r.Terminal}), spec: spec}
	c.execMu.Lock()
	_, twice := c.execs[r.ExecID]
	if !twice {
		c.execs[r.ExecID] = x
	}
	c.execMu.Unlock()
	if twice {
		return nil, status.Errorf(codes.AlreadyExists, "process %s exists", r.ExecID)
	}
	s.events.send(&events.TaskExecAdded{ContainerID: c.id, ExecID: r.ExecID})
	return &emptypb.Empty{}, nil
}

// ResizePty sets the size of a terminal.
func (s *Service) ResizePty(ctx context.Context, r *api.ResizePtyRequest) (*emptypb.Empty, error) {
	c, p, pod, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if c.sandbox || p.state() != task.Status_RUNNING {
		return &emptypb.Empty{}, nil
	}
	err = call(ctx, callTimeout, pod.agent.TtyWinResize, &agentpb.TtyWinResizeRequest{ContainerId: c.id, ExecId: r.ExecID, Row: r.Height, Column: r.Width})
	return &emptypb.Empty{}, err
}

// CloseIO ends a process's input.
func (s *Service) CloseIO(_ context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	_, p, _, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if st := p.copying(); r.Stdin && st != nil {
		st.closeInput()
	}
	return &emptypb.Empty{}, nil
}

// Pids names the one process that the host sees.
func (s *Service) Pids(_ context.Context, r *api.PidsRequest) (*api.PidsResponse, error) {
	_, pod, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	return &api.PidsResponse{Processes: []*task.ProcessInfo{{Pid: pod.pid}}}, nil
}

// Connect tells containerd, after its restart, of the shim.
func (s *Service) Connect(_ context.Context, r *api.ConnectRequest) (*api.ConnectResponse, error) {
	return &api.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: s.pidOf(), Version: ""}, nil
}

// Shutdown ends the process when no task is left.
func (s *Service) Shutdown(_ context.Context, _ *api.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	left := len(s.containers)
	s.mu.Unlock()
	if left == 0 {
		s.stop()
	}
	return &emptypb.Empty{}, nil
}

// Checkpoint would copy a TEE's memory to the host.
func (s *Service) Checkpoint(context.Context, *api.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.Unimplemented, "a checkpoint would take the TEE's memory to the host")
}
