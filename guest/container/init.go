package container

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Names (argv[0]) under which coffer-guest runs as a container's first process.
const (
	InitName = "coffer-container-init"
	ExecName = "coffer-container-exec"
)

// Descriptors that the agent hands to the process, after stdin, stdout, stderr.
const (
	fdSocket = 3 + iota
	fdFirst  // InitName: ipc, uts; ExecName: mnt, ipc, uts, cgroup
)

// Main is the process InitName or ExecName. It returns only on failure.
func Main(name string) int {
	// Namespaces, credentials and filters are this thread's; the execve that
	// ends it makes them the process's.
	runtime.LockOSThread()
	if name == PodInitName {
		fmt.Fprintln(os.Stderr, "coffer-pod-init:", podInitMain())
		return 126
	}
	sock := socket{os.NewFile(fdSocket, "agent")}
	run := initMain
	if name == ExecName {
		run = execMain
	}
	err := run(sock)
	r := report{State: "failed", Error: err.Error(), Missing: errors.Is(err, errNotFound)}
	_ = sock.send(&r, -1) // the agent also sees the exit
	if r.Missing {
		return 127
	}
	return 126
}

// prepare makes the process unreadable to others and its descriptors private.
func prepare() error {
	// A container's processes see an exec helper in their pid namespace: without
	// this they could open its memory, binary and descriptors through /proc.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the process unreadable: %w", err)
	}
	if err := unix.CloseRange(fdSocket, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("marking descriptors: %w", err)
	}
	unix.Umask(0)
	return nil
}

func initMain(sock socket) error {
	if err := prepare(); err != nil {
		return err
	}
	var cfg Config
	if _, err := sock.receive(&cfg); err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("starting session: %w", err)
	}
	for i, kind := range []int{unix.CLONE_NEWIPC, unix.CLONE_NEWUTS} {
		if err := unix.Setns(fdFirst+i, kind); err != nil {
			return fmt.Errorf("joining the pod's namespaces: %w", err)
		}
		unix.Close(fdFirst + i)
	}
	// Not by clone: a namespace made there would be rooted at the agent's group.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making cgroup namespace: %w", err)
	}
	id, err := buildRoot(&cfg)
	if err != nil {
		return err
	}
	tty := -1
	if cfg.Process.Terminal {
		if tty, err = openTerminal(&cfg.Process, id.UID); err != nil {
			return err
		}
		if err := bindConsole(); err != nil {
			return err
		}
	}
	if cfg.ReadOnlyRoot {
		if err := remountReadOnly("/"); err != nil {
			return err
		}
	}
	if err := sock.send(&report{State: "ready", Identity: id}, tty); err != nil {
		return fmt.Errorf("reporting: %w", err)
	}
	if tty >= 0 {
		unix.Close(tty)
	}
	var start struct{}
	if _, err := sock.receive(&start); err != nil {
		return fmt.Errorf("waiting for start: %w", err)
	}
	return cfg.Process.become(id)
}

func execMain(sock socket) error {
	if err := prepare(); err != nil {
		return err
	}
	var req execRequest
	if _, err := sock.receive(&req); err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("starting session: %w", err)
	}
	// Threads of a Go program share their root directory, and the kernel lets
	// only a thread with its own into another mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("entering the container: %w", err)
	}
	for i, kind := range []int{unix.CLONE_NEWNS, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP} {
		if err := unix.Setns(fdFirst+i, kind); err != nil {
			return fmt.Errorf("entering the container: %w", err)
		}
		unix.Close(fdFirst + i)
	}
	tty := -1
	if req.Process.Terminal {
		var err error
		if tty, err = openTerminal(&req.Process, req.Identity.UID); err != nil {
			return err
		}
	}
	if err := sock.send(&report{State: "ready"}, tty); err != nil {
		return fmt.Errorf("reporting: %w", err)
	}
	if tty >= 0 {
		unix.Close(tty)
	}
	return req.Process.become(&req.Identity)
}
