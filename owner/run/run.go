package run

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/owner/pod"
	"github.com/cofferproject/coffer/owner/spec"
)

// Options are those of coffer run.
type Options struct {
	PodOptions
	Publish     []launch.PortForward
	SimDevices  []string          // kinds of devices that are simulated beside the TEE
	Volumes     map[string]string // files or block devices of volumes that last, by volume
	MaxRestarts int               // -1: as the pod's restartPolicy says, without limit
	Stdin       *os.File
	Stdout      io.Writer // the workload's lines
	Progress    io.Writer // what coffer does, one line each
	JSON        bool      // Progress and the result as JSON lines
	Timings     string    // file for the phases' durations, as JSON
	OnRunning   func(id string)
}

// Run runs a pod to its end and gives its exit code.
func Run(ctx context.Context, o Options) (code int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &runner{o: o, clock: newTimings(), signals: catchSignals(func(sig syscall.Signal) {
		if sig != syscall.SIGUSR1 && sig != syscall.SIGUSR2 { // these are for a pod, and there is none yet
			cancel(&Interrupted{sig})
		}
	})}
	defer r.signals.stop()
	defer func() {
		if i := (*Interrupted)(nil); err != nil && errors.As(context.Cause(ctx), &i) {
			err = i
		}
		if o.Timings != "" {
			err = errors.Join(err, r.clock.write(o.Timings))
		}
	}()
	return r.run(ctx)
}

type runner struct {
	o       Options
	clock   *timings
	signals *signals
	out     sync.Mutex // lines of containers and progress do not mix
	state   State
	sm      sync.Mutex // guards state
	dir     string
}

// progress prints one line about what happens.
func (r *runner) progress(format string, args ...any) {
	r.out.Lock()
	defer r.out.Unlock()
	msg := fmt.Sprintf(format, args...)
	if r.o.JSON {
		_ = jsonLine(r.o.Progress, map[string]string{"progress": msg})
		return
	}
	fmt.Fprintln(r.o.Progress, "coffer: "+msg)
}

func (r *runner) run(ctx context.Context) (int, error) {
	o := &r.o
	// Everything that can be wrong with the input is found before anything starts.
	p, err := loadPod(o.File)
	if err != nil {
		return 0, err
	}
	if len(p.Cluster) > 0 {
		return 0, &InputError{&pod.Error{Problems: p.Cluster}}
	}
	pf, err := platformFor(&o.PodOptions)
	if err != nil {
		return 0, err
	}
	src, err := loadSources(o.Images)
	if err != nil {
		return 0, &InputError{err}
	}
	local, err := serveLocal(ctx, src)
	if err != nil {
		return 0, err
	}
	defer local.close()
	for _, n := range p.Notes {
		r.progress("note: %s", n)
	}
	root, err := Root()
	if err != nil {
		return 0, err
	}
	Sweep(ctx, root)

	t, err := OpenTrustee(ctx, o.Trustee, func(s string) { r.progress("%s", s) })
	if err != nil {
		return 0, &TrusteeError{err}
	}
	defer t.Release()
	r.clock.mark("trustee ready")
	if p.Annotations[initdata.AnnotationKey] == "" {
		// Who simulates a device for a pod of his own wants its evidence.
		for _, k := range o.SimDevices {
			if !slices.Contains(o.Devices, k) {
				o.Devices = append(o.Devices, k)
			}
		}
	}
	prep, err := prepare(ctx, p, &o.PodOptions, src, t)
	if err != nil {
		return 0, err
	}
	r.clock.mark("images resolved")
	ns := t.Client.Namespace(o.namespace())
	if err := prep.register(ctx, &o.PodOptions, pf, ns, t, func(s string) { r.progress("%s", s) }); err != nil {
		return 0, err
	}
	if prep.adopted {
		r.progress("the pod is sealed: initdata %s", prep.digest)
	} else {
		r.progress("the pod was not sealed: sealed in memory, seal %s, initdata %s", prep.sealID, prep.digest)
	}
	for _, n := range prep.plan.Notes {
		if !slices.Contains(p.Notes, n) {
			r.progress("note: %s", n)
		}
	}
	r.clock.mark("sealed and registered")

	id, dir, err := newRunDir(root, p.Name)
	if err != nil {
		return 0, err
	}
	r.dir = dir
	defer os.RemoveAll(dir) // coffer-node does it too; this is for failures before it runs
	r.initState(id, p.FullName(), prep)
	if err := r.publishState("starting"); err != nil {
		return 0, err
	}
	return r.inTEE(ctx, id, prep, pf, t)
}

// inTEE launches the TEE and runs the pod in it.
func (r *runner) inTEE(ctx context.Context, id string, prep *prepared, pf *platform.Platform, t *Trustee) (int, error) {
	o := &r.o
	spec, err := prep.launchSpec(&o.PodOptions, pf)
	if err != nil {
		return 0, err
	}
	spec.Publish, spec.SimDevices = o.Publish, o.SimDevices
	if spec.Disks, err = disks(prep.policy, o.Volumes); err != nil {
		return 0, &InputError{err}
	}
	if err := spec.Validate(); err != nil {
		return 0, &InputError{err}
	}
	if o.TEE.Process() {
		r.progress("starting a process: %s, %d MiB, %d CPUs", o.TEE, spec.MemoryMiB, spec.VCPUs)
	} else {
		r.progress("starting a VM: %s, %d MiB, %d vCPU", o.TEE, spec.MemoryMiB, spec.VCPUs)
	}
	if o.TEE.Simulated() {
		r.progress("WARNING: %s is simulated: nothing is protected from this machine", o.TEE)
	}
	n, err := startNode(ctx, &nodeapi.Request{ID: id, RunDir: r.dir, Platform: o.Platform, Launch: *spec}, func(s string) { r.progress("%s", s) })
	if err != nil {
		return 0, err
	}
	defer n.stop()
	r.clock.mark("VM started")
	ns := t.Client.Namespace(o.namespace())
	if err := registerEK(ctx, ns, n.ready); err != nil {
		return 0, err
	}
	if err := registerSimulation(ctx, t.Client, ns, o.TEE, o.SimDevices, n.ready.Simulation); err != nil {
		return 0, err
	}
	if sim := n.ready.Simulation; sim != nil {
		r.progress("the hardware is simulated: %s", sim.Note)
		for _, d := range sim.Devices {
			r.progress("a device is simulated: %s", d.Note)
		}
		r.sm.Lock()
		r.state.Measured = sim.Digests
		r.sm.Unlock()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // the TEE's end is the end of everything that waits for it
		ev, err := n.waitExited(ctx)
		if err == nil {
			cancel(&LaunchError{Msg: "the TEE ended: " + howEnded(ev), Console: ev.Console})
		}
	}()
	code, err := r.drive(ctx, id, prep)
	if err != nil {
		if errors.Is(err, ttrpc.ErrClosed) { // the launcher knows why, but its word takes longer
			select {
			case <-ctx.Done():
			case <-time.After(lostGrace):
			}
		}
		var le *LaunchError
		if cause := context.Cause(ctx); errors.As(cause, &le) {
			return 0, le
		}
		return 0, r.explain(t.Client, &launched{spec, n.ready.Launched, prep.digest, pf}, err)
	}
	return code, nil
}

// lostGrace is how long a launcher may take to say how a TEE ended whose channel
// has closed.
const lostGrace = 8 * time.Second

// howEnded puts the launcher's reason into words.
func howEnded(ev nodeapi.Event) string {
	words := map[string]string{
		nodeapi.ReasonDestroyed:     "its launcher was told to end it",
		nodeapi.ReasonGuestShutdown: "the guest powered off",
		nodeapi.ReasonGuestPanic:    "the guest's kernel gave up",
		nodeapi.ReasonCrashed:       "QEMU, swtpm, coffer-simhw or the guest's channel broke",
		nodeapi.ReasonKilled:        "somebody killed QEMU",
		nodeapi.ReasonNoAnswer:      "the guest did not answer in time",
		reasonNoLauncher:            "coffer-node is gone, and the TEE with it",
	}
	for _, w := range []string{ev.Error, words[ev.Reason]} { // the particular before the general
		if w != "" {
			return ev.Reason + ": " + w
		}
	}
	return ev.Reason
}

// drive speaks with the guest agent until the pod has ended.
func (r *runner) drive(ctx context.Context, id string, prep *prepared) (code int, err error) {
	a, err := dialAgent(ctx, r.dir)
	if err != nil {
		return 0, err
	}
	defer a.close()
	r.clock.mark("agent's first answer")
	plan := prep.plan
	if err := setUpSandbox(ctx, a, id, plan); err != nil {
		return 0, err
	}
	r.clock.mark("sandbox created")
	defer func() {
		if err == nil || len(prep.policy.Disks()) > 0 {
			err = errors.Join(err, destroySandbox(ctx, a, prep.policy))
		}
	}()

	specs := containerSpecs(plan, id)
	s := newSupervisor(a, specs)
	s.grace, s.maxRestarts = plan.GracePeriod, r.o.MaxRestarts
	if r.o.Stdin != nil {
		s.stdin = r.o.Stdin
	}
	s.warn = func(format string, args ...any) { r.progress(format, args...) }
	s.onStatus = func() { r.updateState(s) }
	s.onCreated = func(name string) { r.clock.mark("container " + name + " created") }
	var first sync.Once
	s.sink = func(name string) (*logSink, error) {
		return newLogSink(&r.out, r.o.Stdout, r.dir, name, len(specs) > 1, func() {
			first.Do(func() { r.clock.mark("workload's first line"); r.flushTimings() })
		})
	}
	stopControl, err := serveControl(r.dir, control{
		state: r.snapshot,
		stop:  func(now bool) { r.stopPod(s, now) },
		exec: func(ctx context.Context, req ExecRequest) (ExecResponse, error) {
			resp, err := r.exec(ctx, a, s, plan, req)
			return resp, classify(err)
		},
	})
	if err != nil {
		return 0, err
	}
	defer stopControl()
	r.passSignals(ctx, s)
	if err := r.publishState("running"); err != nil {
		return 0, err
	}
	if r.o.OnRunning != nil {
		r.o.OnRunning(id)
	}
	code, err = s.run(ctx, specs)
	if err != nil {
		return 0, err
	}
	return code, nil
}

// Bounds of the guest's end: without and with volumes on disks, which it writes out.
const (
	destroyTime = 5 * time.Second
	flushTime   = 10 * time.Minute
)

// destroySandbox ends the pod in its guest. What fails is an error only where the guest
// had volumes to write out: the TEE is destroyed in any case.
func destroySandbox(ctx context.Context, a *agent, policy *podpolicy.Policy) error {
	volumes := len(policy.Disks()) > 0
	bound := destroyTime
	if volumes {
		bound = flushTime
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bound)
	defer cancel()
	if _, err := a.DestroySandbox(ctx, &agentpb.DestroySandboxRequest{}); err != nil && volumes {
		return fmt.Errorf("ending the pod: %w", err)
	}
	return nil
}

// setUpSandbox brings up the guest's network and delivers the pod's files.
func setUpSandbox(ctx context.Context, a *agent, id string, plan *spec.Plan) error {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	if _, err := a.UpdateInterface(ctx, plan.Interface()); err != nil {
		return fmt.Errorf("setting up the guest's network: %w", err)
	}
	if _, err := a.UpdateRoutes(ctx, plan.Routes()); err != nil {
		return fmt.Errorf("setting up the guest's routes: %w", err)
	}
	if _, err := a.CreateSandbox(ctx, plan.CreateSandbox(id)); err != nil {
		return fmt.Errorf("creating the sandbox: %w", err)
	}
	return plan.CopyFiles(func(req *agentpb.CopyFileRequest) error {
		_, err := a.CopyFile(ctx, req)
		return err
	})
}

func containerSpecs(plan *spec.Plan, id string) []containerSpec {
	var out []containerSpec
	for _, c := range plan.All() {
		out = append(out, containerSpec{
			name: c.Name, init: c.Init, stdin: c.Stdin, tty: c.TTY, restart: c.Restart, stopSignal: c.StopSignal,
			create: func(cid string) *agentpb.CreateContainerRequest { return c.Create(cid, id) },
		})
	}
	return out
}

// exec starts a process for another coffer command.
func (r *runner) exec(ctx context.Context, a *agent, s *supervisor, plan *spec.Plan, req ExecRequest) (ExecResponse, error) {
	i := slices.IndexFunc(plan.All(), func(c *spec.Container) bool { return c.Name == req.Container })
	if i < 0 {
		return ExecResponse{}, fmt.Errorf("the pod has no container %q", req.Container)
	}
	cid, ok := s.cid(req.Container)
	if !ok {
		return ExecResponse{}, fmt.Errorf("container %s is not running", req.Container)
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return ExecResponse{}, err
	}
	eid := "exec-" + hex.EncodeToString(b[:])
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := a.ExecProcess(ctx, plan.All()[i].Exec(cid, eid, req.Args, req.TTY)); err != nil {
		return ExecResponse{}, err
	}
	return ExecResponse{ContainerID: cid, ExecID: eid}, nil
}

// passSignals passes this process' signals on: the first SIGINT or SIGTERM ends
// the pod gently, the second at once; others go to the containers as they are.
func (r *runner) passSignals(ctx context.Context, s *supervisor) {
	stopping := false
	r.signals.handle(func(sig syscall.Signal) {
		switch sig {
		case syscall.SIGINT, syscall.SIGTERM:
			r.stopPod(s, stopping)
			stopping = true
		default:
			s.signal(ctx, sig)
		}
	})
}

func (r *runner) stopPod(s *supervisor, now bool) {
	_ = r.publishState("stopping")
	if !now {
		r.progress("stopping: grace period %s; a second signal ends it at once", s.grace)
	}
	s.stop()
	if now {
		s.kill()
	}
}

// Sweep removes what killed runs have left. It is the launcher's knowledge what
// that is; a failure is not this command's failure.
func Sweep(ctx context.Context, root string) {
	bin, err := Binary("coffer-node")
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = exec.CommandContext(ctx, bin, "sweep", "--root", root).Run()
}

// TrusteeError says that no trustee can be used.
type TrusteeError struct{ Err error }

func (e *TrusteeError) Error() string { return "trustee: " + e.Err.Error() }

// Unwrap gives the cause.
func (e *TrusteeError) Unwrap() error { return e.Err }

// TimedOut reports whether err is that somebody did not answer in time.
func TimedOut(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}

// publishList gives the forwarded ports in the form in which they were asked for.
func publishList(ps []launch.PortForward) []string {
	var out []string
	for _, p := range ps {
		ip := p.HostIP
		if ip == "" {
			ip = "127.0.0.1"
		}
		out = append(out, fmt.Sprintf("%s:%d:%d/%s", ip, p.HostPort, p.GuestPort, p.Protocol))
	}
	return out
}

func (r *runner) initState(id, pod string, prep *prepared) {
	r.state = State{
		ID: id, Pod: pod, TEE: string(r.o.TEE), Simulated: r.o.TEE.Simulated(), PID: os.Getpid(), Started: time.Now().UTC(),
		Publish: publishList(r.o.Publish), SealID: prep.sealID,
	}
	for _, c := range prep.plan.All() {
		r.state.Containers = append(r.state.Containers, ContainerStatus{Name: c.Name, Init: c.Init, State: "waiting"})
	}
}

func (r *runner) publishState(phase string) error {
	r.sm.Lock()
	defer r.sm.Unlock()
	r.state.Phase = phase
	return writeState(r.dir, &r.state)
}

func (r *runner) updateState(s *supervisor) {
	r.sm.Lock()
	defer r.sm.Unlock()
	s.mu.Lock()
	for i := range r.state.Containers {
		r.state.Containers[i] = *s.status[r.state.Containers[i].Name]
	}
	s.mu.Unlock()
	_ = writeState(r.dir, &r.state) // a full disk must not end the pod
}

func (r *runner) snapshot() State {
	r.sm.Lock()
	defer r.sm.Unlock()
	st := r.state
	st.Containers = slices.Clone(st.Containers)
	return st
}

func (r *runner) flushTimings() {
	if r.o.Timings != "" {
		_ = r.clock.write(r.o.Timings)
	}
}

// DefaultPlatform is where coffer guest build puts platform.json.
func DefaultPlatform() string {
	if p := os.Getenv("COFFER_PLATFORM"); p != "" {
		return p
	}
	cache := os.Getenv("COFFER_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return platform.FileName
		}
		cache = filepath.Join(home, ".cache", "coffer")
	}
	return filepath.Join(cache, "guest", platform.FileName)
}
