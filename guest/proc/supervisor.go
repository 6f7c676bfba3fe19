package proc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/guest/proc/caps"
	"golang.org/x/sys/unix"
)

// Supervisor starts helper processes.
type Supervisor struct {
	Exe    string  // path of this binary
	Reaper *Reaper //
	Cgroup string  // directory below which helpers get their groups; "" = no groups (tests)
	Log    *slog.Logger
	// LibraryOS says that the kernel is a library OS, which knows no securebits: a
	// root process gets its whole bounding set at execve. That is what Spec leaves it
	// and CAP_SYS_CHROOT, which it gives up by itself.
	LibraryOS bool
}

// runtimeEnv is for the Go runtime of every helper. Without SSE 4.2 hash/crc32
// makes a small table for the Castagnoli polynomial, which no helper uses, where
// it otherwise computes large ones in every process as it starts.
const runtimeEnv = "GODEBUG=cpu.sse42=off"

// In a library OS each hand-over between threads costs several system calls, and each
// of those a change of processes: helpers have one thread for Go there.
const oneThread = "GOMAXPROCS=1"

func (s *Supervisor) runtimeEnv() []string {
	if s.LibraryOS {
		return []string{runtimeEnv, oneThread}
	}
	return []string{runtimeEnv}
}

// Spec says what a helper process is and what is left to it.
type Spec struct {
	// Name is argv[0]: it picks the entry point. The control group has it too.
	Name string
	Args []string
	Env  []string // the whole environment, but for what is for the Go runtime

	UID, GID uint32
	Groups   []uint32
	// Capabilities are all it has and can ever get: effective, permitted,
	// inheritable, ambient and bounding.
	Capabilities []string
	// Namespaces are CLONE_NEW* flags.
	Namespaces uintptr
	// Root is a directory the process shuts itself in (Confine does it).
	Root string
	// MemoryLimit, bytes, of its control group; 0 = none. Over it the process is
	// killed, not the guest.
	MemoryLimit int64
	Pids        int64
	// Files are descriptors 3, 4, ...; Stdin and Stdout default to /dev/null,
	// Stderr to the console.
	Files                 []*os.File
	Stdin, Stdout, Stderr *os.File
	// Owned says that the files in Files go with the Spec: Keep closes them.
	Owned bool
	// NoDump and Locked are for processes that hold keys: Confine makes them
	// unreadable for others, without core dumps, locked in memory.
	NoDump, Locked bool
	// Unfiltered leaves out the seccomp filter (Confine installs it otherwise).
	Unfiltered bool
}

// Start starts one process. The caller keeps its own copies of spec's files.
func (s *Supervisor) Start(spec *Spec) (*Child, error) {
	keep, err := caps.Parse(spec.Capabilities)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	group, err := s.group(spec)
	if err != nil {
		return nil, err
	}
	if group != nil {
		defer group.Close()
	}
	type result struct {
		child *Child
		err   error
	}
	ch := make(chan result, 1)
	go func() {
		// The thread gives up its bounding set and may gain nothing by execve; the
		// process it forks inherits that. It ends with the goroutine: never unlocked.
		runtime.LockOSThread()
		c, err := s.fork(spec, keep, group)
		ch <- result{c, err}
	}()
	r := <-ch
	return r.child, r.err
}

func (s *Supervisor) fork(spec *Spec, keep caps.Set, group *os.File) (*Child, error) {
	bounding := keep
	if spec.Root != "" {
		bounding |= chrootCap // Confine gives it up after chroot
	}
	if err := caps.DropBounding(bounding); err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	defer null.Close()
	std := []*os.File{spec.Stdin, spec.Stdout, spec.Stderr}
	for i, f := range std {
		if f == nil {
			std[i] = null
		}
	}
	if spec.Stderr == nil {
		std[2] = os.Stderr
	}
	var fds []uintptr
	for _, f := range append(std, spec.Files...) {
		fds = append(fds, f.Fd())
	}
	env, err := confinementEnv(spec)
	if err != nil {
		return nil, err
	}
	ambient := bounding.Bits()
	attr := &syscall.ProcAttr{
		Dir: "/", Env: append(append(env, spec.Env...), s.runtimeEnv()...), Files: fds,
		Sys: &syscall.SysProcAttr{
			Setsid: true, Cloneflags: spec.Namespaces, AmbientCaps: ambient,
			Credential: &syscall.Credential{Uid: spec.UID, Gid: spec.GID, Groups: spec.Groups},
		},
	}
	if group != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(group.Fd())
	}
	if spec.UID == 0 && !s.LibraryOS {
		// Root would get the whole bounding set at execve; make it say so by
		// itself: ambient capabilities only.
		const noRoot = 1<<0 | 1<<1 | 1<<2 | 1<<3 // SECBIT_NOROOT, NO_SETUID_FIXUP, both locked
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, noRoot, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
		}
	}
	return s.Reaper.Start(s.Exe, append([]string{spec.Name}, spec.Args...), attr)
}

// group makes the process's control group. One that an earlier process of the
// same name left is used again.
func (s *Supervisor) group(spec *Spec) (*os.File, error) {
	if s.Cgroup == "" {
		return nil, nil
	}
	dir := filepath.Join(s.Cgroup, filepath.Base(spec.Name))
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("starting %s: making cgroup: %w", spec.Name, err)
	}
	for file, v := range map[string]int64{"memory.max": spec.MemoryLimit, "pids.max": spec.Pids} {
		if v <= 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(v, 10)), 0); err != nil {
			return nil, fmt.Errorf("starting %s: setting cgroup limit %s: %w", spec.Name, file, err)
		}
	}
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	return f, nil
}

// Restart bounds: a process that fails at once must not keep the CPU busy.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 30 * time.Second
	stableRun  = 60 * time.Second
)

// Keep starts the process and starts it again, with growing pauses, whenever it
// ends, until ctx does. make gives a fresh Spec each time. The first start's
// error is returned.
func (s *Supervisor) Keep(ctx context.Context, name string, make func() (*Spec, error)) error {
	start := func() (*Child, error) {
		spec, err := make()
		if err != nil {
			return nil, err
		}
		if spec.Owned {
			defer func() {
				for _, f := range spec.Files {
					_ = f.Close()
				}
			}()
		}
		return s.Start(spec)
	}
	child, err := start()
	if err != nil {
		return err
	}
	go func() {
		backoff := minBackoff
		for {
			began := time.Now()
			if child != nil {
				if _, err := child.Wait(ctx); err != nil {
					_ = child.Signal(unix.SIGKILL)
					return
				}
				s.Log.Error("helper process ended", "name", name, "code", child.ExitCode())
			}
			if time.Since(began) > stableRun {
				backoff = minBackoff
			}
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
				return
			}
			backoff = min(2*backoff, maxBackoff)
			if child, err = start(); err != nil {
				s.Log.Error("starting helper process", "name", name, "err", err)
				child = nil
			}
		}
	}()
	return nil
}
