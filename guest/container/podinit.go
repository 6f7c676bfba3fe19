package container

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// PodInitName is argv[0] of the first process of the pid namespace that a pod's
// containers share.
const PodInitName = "coffer-pod-init"

// nobody is the user that has nothing.
const nobody = 65534

// sharePIDs makes a pid namespace for the pod's containers, and its first process:
// the parent of whoever loses its own.
func (r *Runtime) sharePIDs() error {
	dir := filepath.Join(r.opt.StateDir, "pod.init") // no container's: their ids have no dot
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("making the pod's pid namespace: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("making the pod's pid namespace: %w", err)
	}
	defer null.Close()
	child, err := r.opt.Reaper.Start(r.opt.Exe, []string{PodInitName}, &syscall.ProcAttr{
		Dir: dir, Env: []string{"GOMAXPROCS=1"}, Files: []uintptr{null.Fd(), null.Fd(), null.Fd()},
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS},
	})
	if err != nil {
		return fmt.Errorf("making the pod's pid namespace: %w", err)
	}
	if r.pids, err = os.Open(fmt.Sprintf("/proc/%d/ns/pid", child.PID)); err != nil {
		return errors.Join(fmt.Errorf("making the pod's pid namespace: %w", err), child.Signal(unix.SIGKILL))
	}
	return nil
}

// podInitMain never returns but for an error. It started in an empty directory, and
// keeps nothing but that: containers with the right capability can look at it.
func podInitMain() error {
	// No signal ends it; and whose parent ignores SIGCHLD leaves nothing to reap.
	signal.Ignore()
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("leaving the guest's files: %w", err)
	}
	// In this order: a change of user makes the process dumpable or not by itself.
	for _, give := range []func() error{
		func() error { return syscall.Setgroups(nil) },
		func() error { return syscall.Setresgid(nobody, nobody, nobody) },
		func() error { return syscall.Setresuid(nobody, nobody, nobody) },
		func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) },
		func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) },
	} {
		if err := give(); err != nil {
			return fmt.Errorf("giving up privileges: %w", err)
		}
	}
	for {
		_ = unix.Pause() // it ends with a signal, of which there are none
	}
}
