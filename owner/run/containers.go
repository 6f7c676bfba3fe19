package run

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/cofferproject/coffer/api/agentpb"
)

// restartBackoff is the kubelet's: 10 s, doubled up to 5 min, forgotten after
// 10 min of running.
const (
	backoffStart = 10 * time.Second
	backoffMax   = 5 * time.Minute
	backoffReset = 10 * time.Minute
)

// exit is how a container's process ended.
type exit struct {
	code   int
	oom    bool
	killed bool // by our own stop
}

// reason gives the Kubernetes word for e.
func (e exit) reason() string {
	switch {
	case e.oom:
		return "OOMKilled"
	case e.code == 0:
		return "Completed"
	default:
		return "Error"
	}
}

// containerSpec is what the lifecycle needs to know of a container.
type containerSpec struct {
	name    string
	init    bool
	stdin   bool
	tty     bool
	restart string // "Always", "OnFailure", "Never"

	stopSignal uint32
	create     func(cid string) *agentpb.CreateContainerRequest
}

// supervisor drives all containers of one pod.
type supervisor struct {
	agent       *agent
	grace       time.Duration
	maxRestarts int // -1: no limit
	onStatus    func()
	onCreated   func(name string)
	sink        func(name string) (*logSink, error)
	stdin       io.Reader
	warn        func(format string, args ...any)

	mu      sync.Mutex
	status  map[string]*ContainerStatus
	running map[string]string // name -> container id
	stops   map[string]uint32 // name -> the signal that asks it to stop
	oom     map[string]bool   // container ids killed for memory
	oomMore chan struct{}     // closed and renewed at each OOM event
	stopped bool
	now     bool // no grace period, or no more of it
	stopCh  chan struct{}
}

func newSupervisor(a *agent, specs []containerSpec) *supervisor {
	s := &supervisor{
		agent: a, status: map[string]*ContainerStatus{}, running: map[string]string{},
		stops: map[string]uint32{}, oom: map[string]bool{}, oomMore: make(chan struct{}), stopCh: make(chan struct{}),
	}
	for _, c := range specs {
		s.status[c.name] = &ContainerStatus{Name: c.name, Init: c.init, State: "waiting"}
		s.stops[c.name] = c.stopSignal
	}
	return s
}

// run starts init containers one after the other, then the others together,
// and returns when every container has ended for good: the exit code of the
// first in the manifest's order that failed, else 0.
func (s *supervisor) run(ctx context.Context, specs []containerSpec) (int, error) {
	go s.watchOOM(ctx)
	var mains []containerSpec
	for _, c := range specs {
		if !c.init {
			mains = append(mains, c)
			continue
		}
		// An init container of a pod that restarts is itself restarted on failure.
		if c.restart == "Always" {
			c.restart = "OnFailure"
		}
		e, err := s.loop(ctx, c)
		if err != nil || e.code != 0 || s.isStopped() {
			return e.code, err
		}
	}
	type result struct {
		place int
		e     exit
		err   error
	}
	results := make(chan result, len(mains))
	for i, c := range mains {
		go func() {
			e, err := s.loop(ctx, c)
			results <- result{i, e, err}
		}()
	}
	codes := make([]int, len(mains))
	var firstErr error
	for range mains {
		r := <-results
		if r.err != nil && firstErr == nil {
			firstErr = r.err
			s.stop() // the pod cannot be what its manifest says: do not leave a part of it running
		}
		codes[r.place] = r.e.code
	}
	for _, code := range codes {
		if code != 0 {
			return code, firstErr
		}
	}
	return 0, firstErr
}

// notRun is the end of a container that the pod's own end kept from starting.
var notRun = exit{code: 128 + int(syscall.SIGTERM), killed: true}

// loop runs one container and restarts it as its policy says.
func (s *supervisor) loop(ctx context.Context, c containerSpec) (exit, error) {
	back := backoffStart
	for n := 0; ; n++ {
		began := time.Now()
		e, err := s.once(ctx, c)
		if err != nil {
			s.set(c.name, func(st *ContainerStatus) { st.State, st.Reason = "exited", "Error" })
			return exit{code: 1}, err
		}
		s.set(c.name, func(st *ContainerStatus) { st.State, st.ID, st.ExitCode, st.Reason = "exited", "", e.code, e.reason() })
		again := c.restart == "Always" || c.restart == "OnFailure" && e.code != 0
		if !again || s.isStopped() || s.maxRestarts >= 0 && n >= s.maxRestarts {
			if e.oom {
				s.warn("container %s: out of memory: killed at its limit (OOMKilled, exit code %d)", c.name, e.code)
			}
			return e, nil
		}
		if time.Since(began) > backoffReset {
			back = backoffStart
		}
		s.warn("container %s: %s, exit code %d; restarting in %s (restart policy %s)", c.name, e.reason(), e.code, back, c.restart)
		select {
		case <-time.After(back):
		case <-s.stopCh:
			return e, nil
		case <-ctx.Done():
			return e, ctx.Err()
		}
		back = min(back*2, backoffMax)
		s.set(c.name, func(st *ContainerStatus) { st.Restarts++ })
	}
}

// once creates, starts and waits for one container, then removes it.
func (s *supervisor) once(ctx context.Context, c containerSpec) (exit, error) {
	cid, err := newContainerID()
	if err != nil {
		return exit{}, err
	}
	if s.isStopped() {
		return notRun, nil
	}
	err = s.createContainer(ctx, c.create(cid))
	if s.isStopped() { // what was made of it goes with the TEE
		return notRun, nil
	}
	if err != nil {
		return exit{}, fmt.Errorf("creating container %s: %w", c.name, err)
	}
	if s.onCreated != nil {
		s.onCreated(c.name)
	}
	sink, err := s.sink(c.name)
	if err != nil {
		return exit{}, err
	}
	defer sink.close()
	sctx, cancel := context.WithTimeout(ctx, callTimeout)
	_, err = s.agent.StartContainer(sctx, &agentpb.StartContainerRequest{ContainerId: cid})
	cancel()
	if err != nil {
		return exit{}, fmt.Errorf("starting container %s: %w", c.name, err)
	}
	s.mu.Lock()
	s.running[c.name] = cid
	late := s.stopped // meanwhile: stop() has not seen this one
	s.mu.Unlock()
	if late {
		go s.end(context.WithoutCancel(ctx), c.name) // outlives what waits for the container
	}
	s.set(c.name, func(st *ContainerStatus) { st.State, st.ID, st.Reason, st.ExitCode = "running", cid, "", 0 })

	var wg sync.WaitGroup
	streams := []string{"stdout", "stderr"}
	if c.tty {
		streams = streams[:1]
	}
	for _, name := range streams {
		wg.Go(func() {
			if err := s.agent.stream(ctx, cid, "", name == "stderr", func(b []byte) { sink.write(name, b) }); err != nil && ctx.Err() == nil {
				s.warn("container %s: reading %s: %v", c.name, name, err)
			}
		})
	}
	if c.stdin && s.stdin != nil {
		go func() { _ = s.agent.stdin(ctx, cid, "", s.stdin) }()
	}
	w, err := s.agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: cid})
	if err != nil {
		return exit{}, fmt.Errorf("waiting for container %s: %w", c.name, err)
	}
	wg.Wait()
	e := exit{code: int(w.GetStatus()), killed: s.isStopped()}
	if e.code == 137 && !e.killed {
		e.oom = s.sawOOM(cid)
	}
	s.mu.Lock()
	delete(s.running, c.name)
	s.mu.Unlock()
	rctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := s.agent.RemoveContainer(rctx, &agentpb.RemoveContainerRequest{ContainerId: cid}); err != nil {
		s.warn("container %s: removing it: %v", c.name, err)
	}
	return e, nil
}

// createContainer asks for a container. It may pull for long; the pod's end ends it.
func (s *supervisor) createContainer(ctx context.Context, req *agentpb.CreateContainerRequest) error {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-s.stopCh:
			cancel()
		case <-done:
		}
	}()
	_, err := s.agent.CreateContainer(ctx, req)
	return err
}

// watchOOM records the guest's out-of-memory events.
func (s *supervisor) watchOOM(ctx context.Context) {
	for {
		ev, err := s.agent.GetOOMEvent(ctx, &agentpb.GetOOMEventRequest{})
		if err != nil {
			return
		}
		s.mu.Lock()
		s.oom[ev.GetContainerId()] = true
		close(s.oomMore)
		s.oomMore = make(chan struct{})
		s.mu.Unlock()
	}
}

// sawOOM waits a moment for the event that belongs to a SIGKILL: the two travel
// on different calls.
func (s *supervisor) sawOOM(cid string) bool {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	for {
		s.mu.Lock()
		hit, more := s.oom[cid], s.oomMore
		s.mu.Unlock()
		if hit {
			return true
		}
		select {
		case <-more:
		case <-t.C:
			return false
		}
	}
}

// signal passes sig to every running container; 0 is each one's own stop signal.
func (s *supervisor) signal(ctx context.Context, sig syscall.Signal) { s.signalOnly(ctx, sig, "") }

func (s *supervisor) signalOnly(ctx context.Context, sig syscall.Signal, only string) {
	s.mu.Lock()
	ids := make(map[string]string, len(s.running))
	for n, id := range s.running {
		if only == "" || n == only {
			ids[n] = id
		}
	}
	s.mu.Unlock()
	for name, cid := range ids {
		sig := sig
		if sig == 0 {
			sig = syscall.Signal(s.stops[name])
		}
		if sig == 0 {
			sig = syscall.SIGTERM
		}
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := s.agent.SignalProcess(cctx, &agentpb.SignalProcessRequest{ContainerId: cid, Signal: uint32(sig)})
		cancel()
		if err != nil && !errors.Is(err, ttrpc.ErrClosed) { // what is gone needs no signal
			s.warn("container %s: sending %s: %v", name, sig, err)
		}
	}
}

// stop ends the pod as Kubernetes does: the stop signal (SIGTERM), the grace period, SIGKILL. It
// returns at once; run returns when the containers are gone.
func (s *supervisor) stop() {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return
	}
	s.stopped = true
	close(s.stopCh)
	s.mu.Unlock()
	go s.end(context.Background(), "")
}

// end ends one container, or with "" those that run now.
func (s *supervisor) end(ctx context.Context, only string) {
	s.signalOnly(ctx, 0, only)
	deadline := time.Now().Add(s.grace)
	for time.Now().Before(deadline) && !s.atOnce() {
		if s.idle(only) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.signalOnly(ctx, syscall.SIGKILL, only)
}

// kill ends the grace period.
func (s *supervisor) kill() {
	s.mu.Lock()
	s.now = true
	s.mu.Unlock()
	s.signal(context.Background(), syscall.SIGKILL)
}

func (s *supervisor) atOnce() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *supervisor) idle(only string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if only != "" {
		return s.running[only] == ""
	}
	return len(s.running) == 0
}

func (s *supervisor) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

func (s *supervisor) set(name string, f func(*ContainerStatus)) {
	s.mu.Lock()
	f(s.status[name])
	s.mu.Unlock()
	if s.onStatus != nil {
		s.onStatus()
	}
}

// cid gives the id of a running container.
func (s *supervisor) cid(name string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.running[name]
	return id, ok
}

// newContainerID gives 64 hex digits, as container runtimes make them.
func newContainerID() (string, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), nil
}
