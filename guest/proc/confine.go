package proc

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"github.com/cofferproject/coffer/guest/proc/caps"
	"github.com/cofferproject/coffer/guest/proc/seccomp"
	"golang.org/x/sys/unix"
)

// confineVar carries what a helper has to do to itself. It comes from PID 1.
const confineVar = "COFFER_CONFINE"

const chrootCap caps.Set = 1 << unix.CAP_SYS_CHROOT

// confinement is the part of a Spec that only the process itself can do.
type confinement struct {
	Root         string   `json:"root,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
	NoDump       bool     `json:"no_dump,omitempty"`
	Locked       bool     `json:"locked,omitempty"`
	Filter       bool     `json:"filter,omitempty"`
}

func confinementEnv(spec *Spec) ([]string, error) {
	b, err := json.Marshal(confinement{
		Root: spec.Root, Capabilities: spec.Capabilities, NoDump: spec.NoDump, Locked: spec.Locked, Filter: !spec.Unfiltered,
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	return []string{confineVar + "=" + string(b)}, nil
}

// Confine ends a helper process's own privileges, as its Spec said. Its entry
// point calls it before anything else; in a process that PID 1 did not start it
// is an error.
func Confine() error {
	v, ok := os.LookupEnv(confineVar)
	if !ok {
		return fmt.Errorf("confining the process: it was not started by the guest's init")
	}
	if err := os.Unsetenv(confineVar); err != nil {
		return fmt.Errorf("confining the process: %w", err)
	}
	var c confinement
	d := json.NewDecoder(strings.NewReader(v))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return fmt.Errorf("confining the process: %w", err)
	}
	if c.NoDump || c.Locked {
		if err := HideMemory(); err != nil {
			return err
		}
	}
	if c.Locked {
		// What is there and what will be; pages become present when they are used,
		// so that the lock does not cost the whole binary's size.
		if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
			return fmt.Errorf("confining the process: locking memory: %w", err)
		}
	}
	if c.Root != "" {
		if err := enterRoot(c); err != nil {
			return err
		}
	}
	if c.Filter {
		code, err := seccomp.RuntimeDefault(c.Capabilities).Compile()
		if err != nil {
			return fmt.Errorf("confining the process: %w", err)
		}
		if err := seccomp.InstallProcess(code); err != nil {
			return fmt.Errorf("confining the process: %w", err)
		}
	}
	return nil
}

// HideMemory keeps other processes and core dumps from the memory of this one.
func HideMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("confining the process: dumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("confining the process: core dumps: %w", err)
	}
	return nil
}

// enterRoot shuts the process in and gives up what that took, on every thread.
func enterRoot(c confinement) error {
	if err := os.Chdir(c.Root); err != nil {
		return fmt.Errorf("confining the process: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("confining the process: changing root: %w", err)
	}
	keep, err := caps.Parse(c.Capabilities)
	if err != nil {
		return fmt.Errorf("confining the process: %w", err)
	}
	if keep&chrootCap != 0 {
		return nil
	}
	if _, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_LOWER, unix.CAP_SYS_CHROOT, 0, 0, 0); e != 0 {
		return fmt.Errorf("confining the process: dropping capability: %w", e)
	}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	d := [2]unix.CapUserData{
		{Effective: uint32(keep), Permitted: uint32(keep), Inheritable: uint32(keep)},
		{Effective: uint32(keep >> 32), Permitted: uint32(keep >> 32), Inheritable: uint32(keep >> 32)},
	}
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&d[0])), 0); e != 0 {
		return fmt.Errorf("confining the process: dropping capability: %w", e)
	}
	return nil
}
