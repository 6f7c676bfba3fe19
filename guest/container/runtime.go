package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/cofferproject/coffer/guest/proc"
	"golang.org/x/sys/unix"
)

// Runtime makes containers and holds what they share.
type Runtime struct {
	opt      Options
	ipc, uts *os.File // set by Setup
	pids     *os.File // the containers' pid namespace; nil: each has its own
	oom      *oomWatcher

	mu         sync.Mutex
	containers map[string]*Container // nil: the id is taken, the container not ready
}

// Options say where the Runtime works.
type Options struct {
	Exe        string       // path of this binary, as a container's init is started
	Reaper     *proc.Reaper // starts and reaps every process
	CgroupRoot string       // existing cgroup v2 directory for the containers' groups
	StateDir   string       // existing directory on a tmpfs
	// Exited is told of each process's end before any waiter is; execID "" is the
	// container's own process.
	Exited func(containerID, execID string, status int)
	// OOM is told when the kernel has killed a container for its memory.
	OOM func(containerID string)
	Log *slog.Logger
	// LibraryOS says that the kernel is a library OS, which cannot hold a container
	// to memory or CPU time: such limits are refused.
	LibraryOS bool
}

// NewRuntime makes a Runtime.
func NewRuntime(opt Options) (*Runtime, error) {
	switch {
	case opt.Exe == "" || opt.Reaper == nil || opt.CgroupRoot == "" || opt.StateDir == "" || opt.Log == nil:
		return nil, errors.New("container runtime: incomplete options")
	}
	if opt.Exited == nil {
		opt.Exited = func(string, string, int) {}
	}
	if opt.OOM == nil {
		opt.OOM = func(string) {}
	}
	r := &Runtime{opt: opt, containers: map[string]*Container{}}
	var err error
	if r.oom, err = newOOMWatcher(opt.OOM); err != nil {
		return nil, err
	}
	return r, nil
}

// Setup makes the namespaces that the pod's containers share (ipc, uts, with sharePIDs
// pid), and sets host name and sysctls in them. Once.
func (r *Runtime) Setup(hostname string, sysctls map[string]string, sharePIDs bool) error {
	if r.ipc != nil {
		return errors.New("setting up the pod: done already")
	}
	if sharePIDs {
		if err := r.sharePIDs(); err != nil {
			return err
		}
	}
	errs := make(chan error, 1)
	go func() {
		// The thread keeps the new namespaces and so must end with the goroutine:
		// it stays locked.
		runtime.LockOSThread()
		errs <- r.setup(hostname, sysctls)
	}()
	return <-errs
}

// openPorts lets every user listen on ports below 1024 and ping, as containerd does for its
// pods. A library OS has these files or not.
func (r *Runtime) openPorts() error {
	for name, value := range map[string]string{"ip_unprivileged_port_start": "0", "ping_group_range": "0 2147483647"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil && !r.opt.LibraryOS {
			return fmt.Errorf("setting sysctl: %w", err)
		}
	}
	return nil
}

func (r *Runtime) setup(hostname string, sysctls map[string]string) error {
	if err := unix.Unshare(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("making the pod's namespaces: %w", err)
	}
	if hostname != "" {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("setting host name: %w", err)
		}
	}
	if err := r.openPorts(); err != nil {
		return err
	}
	for name, value := range sysctls {
		// A relative path cannot leave: the policy's names hold no "..", but check.
		p := strings.ReplaceAll(name, ".", "/")
		if !filepath.IsLocal(p) {
			return fmt.Errorf("setting sysctl %q: not a name", name)
		}
		if err := os.WriteFile("/proc/sys/"+p, []byte(value), 0); err != nil {
			return fmt.Errorf("setting sysctl: %w", err)
		}
	}
	ipc, err := os.Open("/proc/thread-self/ns/ipc")
	if err != nil {
		return fmt.Errorf("making the pod's namespaces: %w", err)
	}
	uts, err := os.Open("/proc/thread-self/ns/uts")
	if err != nil {
		ipc.Close()
		return fmt.Errorf("making the pod's namespaces: %w", err)
	}
	r.ipc, r.uts = ipc, uts
	return nil
}

// Container gives a container by its id.
func (r *Runtime) Container(id string) (*Container, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	return c, c != nil
}

// Containers lists all.
func (r *Runtime) Containers() []*Container {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*Container
	for _, c := range r.containers {
		if c != nil {
			out = append(out, c)
		}
	}
	return out
}

// KillAll ends every process of every container, and waits until all have ended.
func (r *Runtime) KillAll(ctx context.Context) error {
	all := r.Containers()
	var errs []error
	for _, c := range all {
		if err := c.cgroup.kill(); err != nil {
			errs = append(errs, fmt.Errorf("killing container %s: %w", c.ID, err))
		}
	}
	for _, c := range all {
		if err := c.gone(ctx); err != nil {
			errs = append(errs, fmt.Errorf("waiting for container %s to end: %w", c.ID, err))
		}
	}
	return errors.Join(errs...)
}

// fork starts this binary under name with the process's standard descriptors,
// then extra ones from 3 on, in the group.
func (r *Runtime) fork(name string, io *stdio, extra []*os.File, group *os.File, flags uintptr) (*proc.Child, error) {
	files := make([]uintptr, 0, 3+len(extra))
	for _, f := range append(append([]*os.File(nil), io.child...), extra...) {
		files = append(files, f.Fd())
	}
	child, err := r.opt.Reaper.Start(r.opt.Exe, []string{name}, &syscall.ProcAttr{
		Dir: "/",
		// One thread works and it is about to execute something else.
		Env:   []string{"GOMAXPROCS=1", "GOGC=off", "GODEBUG=madvdontneed=1"},
		Files: files,
		Sys: &syscall.SysProcAttr{
			Cloneflags: flags, UseCgroupFD: true, CgroupFD: int(group.Fd()),
		},
	})
	runtime.KeepAlive(extra)
	return child, err
}
