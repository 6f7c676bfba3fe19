package supervise

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Drop gives up all privileges of this process for good, on every thread: it
// runs on under uid (as group, too), without supplementary groups or
// capabilities, and nothing that it starts can gain any. Its memory is hidden
// from other processes of that uid, and it still dies with its parent. uid 0
// says that there is no other uid to be had; for root that is an error.
func Drop(uid int) error {
	if err := drop(uid); err != nil {
		return fmt.Errorf("giving up privileges: %w", err)
	}
	return nil
}

func drop(uid int) error {
	parent := os.Getppid()
	if err := everyThread(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if uid == 0 {
			return errors.New("no uid to run under was given")
		}
		// The uid last: it takes the right to change the others along, and with it
		// all capabilities.
		if err := syscall.Setgroups(nil); err != nil {
			return fmt.Errorf("groups: %w", err)
		}
		if err := syscall.Setresgid(uid, uid, uid); err != nil {
			return fmt.Errorf("gid: %w", err)
		}
		if err := syscall.Setresuid(uid, uid, uid); err != nil {
			return fmt.Errorf("uid: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("dumpable: %w", err)
	}
	// A change of uid takes the signal away.
	if err := everyThread(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL)); err != nil {
		return err
	}
	if os.Getppid() != parent {
		return errors.New("the parent has ended meanwhile")
	}
	return nil
}

// everyThread makes a setting that threads have for themselves.
func everyThread(option int, value uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, uintptr(option), value, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("setting %d: %w", option, errno)
	}
	return nil
}
