package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cofferproject/coffer/guest/proc"
	"golang.org/x/sys/unix"
)

// maxExecs bounds how many exec'd processes one container has at a time.
const maxExecs = 64

// setupTime bounds how long a container's init may take to build its root.
const setupTime = 30 * time.Second

// Container is one container.
type Container struct {
	ID string

	r        *Runtime
	dir      string // scratch and generated files
	cgroup   *cgroup
	identity identity
	mnt      *os.File // namespaces, for exec
	pid, cg  *os.File

	init *Task
	sock socket // to init, until it has executed the workload

	mu      sync.Mutex
	started bool
	removed bool
	execs   map[string]*Task // nil: being started
}

// Create makes a container up to the point where its init waits for Start. Its
// directory, Dir(id), becomes the container's and goes with it.
func (r *Runtime) Create(ctx context.Context, id string, cfg *Config, limits Limits, stdin bool) (_ *Container, err error) {
	if r.ipc == nil {
		return nil, errors.New("creating container: the pod is not set up")
	}
	c := &Container{ID: id, r: r, dir: r.Dir(id), execs: map[string]*Task{}}
	r.mu.Lock()
	if _, ok := r.containers[id]; ok {
		r.mu.Unlock()
		return nil, errors.New("creating container: the id is taken")
	}
	r.containers[id] = nil
	r.mu.Unlock()
	defer func() {
		if err != nil {
			_ = c.cleanUp() // err already says what failed
		}
	}()

	cfg.LibraryOS = r.opt.LibraryOS
	cfg.Scratch = filepath.Join(c.dir, "fs")
	if err := os.MkdirAll(cfg.Scratch, 0o755); err != nil {
		return nil, fmt.Errorf("creating container: %w", err)
	}
	if c.cgroup, err = newCgroup(r.opt.CgroupRoot, id, limits, cfg.Devices, r.opt.LibraryOS); err != nil {
		return nil, err
	}
	stdio, err := newStdio(cfg.Process.Terminal, stdin)
	if err != nil {
		return nil, fmt.Errorf("creating container: %w", err)
	}
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID)
	if r.pids != nil {
		flags = unix.CLONE_NEWNS
	}
	c.init, c.sock, err = r.launch(InitName, c, "", stdio, []*os.File{r.ipc, r.uts}, flags)
	if err != nil {
		return nil, err
	}
	ready, err := c.sock.handshake(ctx, cfg, stdio)
	if err != nil {
		return nil, c.explain(fmt.Errorf("creating container: %w", err))
	}
	if ready.Identity == nil {
		return nil, errors.New("creating container: its init did not say who it is")
	}
	c.identity = *ready.Identity
	for name, f := range map[string]**os.File{"mnt": &c.mnt, "pid": &c.pid, "cgroup": &c.cg} {
		if *f, err = os.Open(fmt.Sprintf("/proc/%d/ns/%s", c.init.child.PID, name)); err != nil {
			return nil, fmt.Errorf("creating container: %w", err)
		}
	}
	if err := r.oom.watch(c); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.containers[id] = c
	r.mu.Unlock()
	return c, nil
}

// Dir gives the directory of the container's own files; the agent may put
// generated ones there before Create.
func (r *Runtime) Dir(id string) string { return filepath.Join(r.opt.StateDir, id) }

// Start lets the container's init execute the workload.
func (c *Container) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started {
		return errors.New("starting container: it was started before")
	}
	c.started = true
	if err := c.sock.send(struct{}{}, -1); err != nil {
		return c.explain(fmt.Errorf("starting container: %w", err))
	}
	// Not by ctx, which the host ends when it likes: a start that fails did not
	// happen, and may be repeated where the policy allows no second run.
	if err := c.sock.awaitExec(context.WithoutCancel(ctx)); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = c.cgroup.kill()
		}
		return c.explain(fmt.Errorf("starting container: %w", err))
	}
	return nil
}

// explain adds the reason if the kernel has killed the container for its memory.
func (c *Container) explain(err error) error {
	if c.cgroup != nil && c.cgroup.oomKills() > 0 {
		return fmt.Errorf("%w (out of memory: the limit is too small for the container to start)", err)
	}
	return err
}

// Exec starts another process in the container.
func (c *Container) Exec(ctx context.Context, execID string, p Process, stdin bool) (err error) {
	if err := c.reserve(execID); err != nil {
		return err
	}
	var task *Task
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if err == nil && c.removed {
			err = errors.New("starting process: the container is being removed")
		}
		if err == nil {
			c.execs[execID] = task
			return
		}
		delete(c.execs, execID)
		if task != nil {
			_ = task.child.Signal(unix.SIGKILL)
			task.io.close()
		}
	}()
	stdio, err := newStdio(p.Terminal, stdin)
	if err != nil {
		return fmt.Errorf("starting process: %w", err)
	}
	// Without the lock: the container's own processes may delay what follows.
	task, sock, err := c.r.launch(ExecName, c, execID, stdio, []*os.File{c.mnt, c.r.ipc, c.r.uts, c.cg}, 0)
	if err != nil {
		return err
	}
	defer sock.f.Close()
	if _, err := sock.handshake(ctx, &execRequest{Process: p, Identity: c.identity}, stdio); err != nil {
		return fmt.Errorf("starting process: %w", err)
	}
	if err := sock.awaitExec(ctx); err != nil {
		return fmt.Errorf("starting process: %w", err)
	}
	return nil
}

// reserve takes an exec id, if the container can run another process.
func (c *Container) reserve(execID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.started || c.removed || c.init.ended() {
		return errors.New("starting process: the container is not running")
	}
	if old, ok := c.execs[execID]; ok {
		if old == nil || !old.ended() {
			return errors.New("starting process: the id is taken")
		}
		old.io.close()
	}
	for id, x := range c.execs { // those that nobody has waited for
		if len(c.execs) >= maxExecs && x != nil && x.ended() {
			x.io.close()
			delete(c.execs, id)
		}
	}
	if len(c.execs) >= maxExecs {
		return fmt.Errorf("starting process: the container has %d already", maxExecs)
	}
	c.execs[execID] = nil
	return nil
}

// Task finds the container's own process (execID "" or the container's id) or
// an exec'd one.
func (c *Container) Task(execID string) (*Task, bool) {
	if execID == "" || execID == c.ID {
		return c.init, c.init != nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.execs[execID]
	return t, t != nil
}

// Forget drops an exec'd process that has ended and has been waited for.
func (c *Container) Forget(execID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.execs[execID]; p != nil && p.ended() && p.outputDone() {
		p.io.close()
		delete(c.execs, execID)
	}
}

// Pause freezes all processes.
func (c *Container) Pause() error {
	if c.r.opt.LibraryOS {
		return fmt.Errorf("pausing: %w", errLibraryOS)
	}
	return c.cgroup.freeze(true)
}

// Resume thaws them.
func (c *Container) Resume() error { return c.cgroup.freeze(false) }

// Update changes the limits that l names.
func (c *Container) Update(l Limits) error {
	if c.r.opt.LibraryOS {
		if err := l.withinLibraryOS(); err != nil {
			return err
		}
	}
	return c.cgroup.limit(l)
}

// KillAll ends every process of the container.
func (c *Container) KillAll() error { return c.cgroup.kill() }

// gone waits until none of the container's processes is left.
func (c *Container) gone(ctx context.Context) error {
	if c.init != nil {
		select {
		case <-c.init.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if c.r.opt.LibraryOS { // its processes are in a PID namespace that ends with the first
		return nil
	}
	const pause = 5 * time.Millisecond
	for {
		ev, err := c.cgroup.keyed("cgroup.events")
		if errors.Is(err, os.ErrNotExist) || err == nil && ev["populated"] == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Remove ends the container and deletes what it wrote. ctx bounds the wait for
// its processes to end.
func (c *Container) Remove(ctx context.Context) error {
	c.mu.Lock()
	if c.removed {
		c.mu.Unlock()
		return nil
	}
	c.removed = true
	c.mu.Unlock()
	if err := c.cgroup.kill(); err != nil {
		return err
	}
	select {
	case <-c.init.done:
	case <-ctx.Done():
		c.mu.Lock()
		c.removed = false
		c.mu.Unlock()
		return fmt.Errorf("removing container: %w", ctx.Err())
	}
	return c.cleanUp()
}

func (c *Container) cleanUp() error {
	var errs []error
	if c.cgroup != nil {
		c.r.oom.forget(c)
		_ = c.cgroup.kill()
	}
	if c.init != nil {
		select {
		case <-c.init.done:
		case <-time.After(5 * time.Second):
			errs = append(errs, errors.New("removing container: its init does not end"))
		}
		c.init.io.close()
		c.sock.f.Close()
	}
	c.mu.Lock()
	for _, x := range c.execs {
		if x != nil {
			x.io.close()
		}
	}
	c.mu.Unlock()
	if c.cgroup != nil {
		errs = append(errs, c.cgroup.remove())
	}
	for _, f := range []*os.File{c.mnt, c.pid, c.cg} {
		if f != nil {
			f.Close()
		}
	}
	errs = append(errs, os.RemoveAll(c.dir))
	c.r.mu.Lock()
	delete(c.r.containers, c.ID)
	c.r.mu.Unlock()
	return errors.Join(errs...)
}

// launch starts a container's init or an exec helper.
func (r *Runtime) launch(name string, c *Container, execID string, stdio *stdio, ns []*os.File, flags uintptr) (*Task, socket, error) {
	fail := func(err error) (*Task, socket, error) {
		stdio.close()
		return nil, socket{}, err
	}
	group, err := c.cgroup.open()
	if err != nil {
		return fail(err)
	}
	defer group.Close()
	sock, far, err := socketPair()
	if err != nil {
		return fail(err)
	}
	defer far.Close()
	start := func() (*proc.Child, error) {
		return r.fork(name, stdio, append([]*os.File{far}, ns...), group, flags)
	}
	if ns := cmp.Or(c.pid, r.pids); ns != nil {
		start = inPIDNamespace(ns, start)
	}
	child, err := start()
	if err != nil {
		sock.f.Close()
		return fail(err)
	}
	p := &Task{child: child, io: stdio, done: make(chan struct{})}
	stdio.closeChild()
	stdio.started(p.done)
	go p.finish(c, execID)
	return p, sock, nil
}

func newStdio(terminal, stdin bool) (*stdio, error) {
	if terminal {
		return newTerminalStdio()
	}
	return newPipes(stdin)
}

// handshake sends the configuration and waits until the process is ready.
func (s socket) handshake(ctx context.Context, cfg any, stdio *stdio) (*report, error) {
	ctx, cancel := context.WithTimeout(ctx, setupTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.f.SetDeadline(time.Unix(1, 0)) })()
	if err := s.send(cfg, -1); err != nil {
		return nil, err
	}
	var r report
	fd, err := s.receive(&r)
	if errors.Is(err, io.EOF) {
		return nil, errors.New("its first process ended while it was being set up")
	}
	if err != nil {
		return nil, err
	}
	if fd >= 0 {
		if err := stdio.setMaster(fd); err != nil {
			return nil, err
		}
	}
	if r.State != "ready" {
		return nil, r.err()
	}
	return &r, nil
}

// awaitExec waits for the descriptor to close, which execve does.
func (s socket) awaitExec(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setupTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.f.SetDeadline(time.Unix(1, 0)) })()
	var r report
	_, err := s.receive(&r)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.err()
}

func (r *report) err() error {
	if r.Missing {
		return fmt.Errorf("%s: %w", r.Error, ErrCommandNotFound)
	}
	return errors.New(r.Error)
}

// ErrCommandNotFound says that the command is not in the image.
var ErrCommandNotFound = errors.New("the container's command does not exist")
