// Package boot brings the guest from the kernel's first instruction of PID 1 to
// a state in which the agent can take calls: mounts, kernel modules, control
// groups, and initdata (design.md section 4: exactly one device, read once,
// bounded; hashed, bound to the TEE's register, only then parsed).
//
// Invariants: a doubtful initdata halts the guest, it never starts without; the
// guest's root is read-only before any workload exists; no module is loaded
// after Modules returns.
//
// Trust zone: guest. Disks and their contents are the host's, hostile.
package boot

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// CgroupPods is the control group below which containers get theirs.
const CgroupPods = "/sys/fs/cgroup/pod"

// CgroupHelpers is the control group of the guest's own helper processes.
const CgroupHelpers = "/sys/fs/cgroup/coffer"

// StateDir is the tmpfs that holds layers and containers' writes.
const StateDir = "/run/coffer"

// ResolvConf is the pod's and the guest's own resolver configuration; the
// guest's /etc/resolv.conf is a link to it.
const ResolvConf = StateDir + "/etc/resolv.conf"

// Filesystems makes the root an ordinary, read-only mount and mounts the
// kernel's file systems. PID 1 calls it first.
func Filesystems() error {
	for _, d := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/etc", "/.root"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("making mount points: %w", err)
		}
	}
	if err := os.Symlink(ResolvConf, "/etc/resolv.conf"); err != nil {
		return fmt.Errorf("linking resolv.conf: %w", err)
	}
	if err := leaveInitramfs(); err != nil {
		return err
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		fstype, dir string
		flags       uintptr
		data        string
	}{
		{"proc", "/proc", safe, ""},
		{"sysfs", "/sys", safe, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", "/tmp", safe, "mode=1777,size=16m"},
		// Image layers and containers' writes live in memory; a quarter stays for
		// processes, so that a full disk is an error and not an OOM kill.
		{"tmpfs", StateDir, unix.MS_NOSUID | unix.MS_NODEV, "mode=0711,size=75%"},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"cgroup2", "/sys/fs/cgroup", safe, "nsdelegate"},
		{"securityfs", "/sys/kernel/security", safe, ""},
	} {
		if m.dir == StateDir || m.dir == "/dev/pts" {
			if err := os.MkdirAll(m.dir, 0o755); err != nil {
				return fmt.Errorf("mounting %s: %w", m.dir, err)
			}
		}
		if err := unix.Mount(m.fstype, m.dir, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.dir, err)
		}
	}
	// A container that gets hold of our binary through an exec helper must not
	// change it.
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("making the root read-only: %w", err)
	}
	// As the kubelet sets it: a container's limit is its cgroup's, and what goes
	// over it is an OOM kill, not a refused malloc because the VM is small.
	if err := os.WriteFile("/proc/sys/vm/overcommit_memory", []byte("1"), 0); err != nil {
		return fmt.Errorf("setting vm.overcommit_memory: %w", err)
	}
	// The console's line is the host's: a break on it must not command the kernel.
	// Nor may a container with every capability start another kernel.
	for name, v := range map[string]string{"sysrq": "0", "kexec_load_disabled": "1"} {
		if err := os.WriteFile(filepath.Join("/proc/sys/kernel", name), []byte(v), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("setting kernel.%s: %w", name, err)
		}
	}
	return nil
}

// leaveInitramfs gives / a parent mount, without which pivot_root fails: it binds
// / and moves the copy over it.
func leaveInitramfs() error {
	for _, step := range []func() error{
		func() error { return unix.Mount("/", "/.root", "", unix.MS_BIND|unix.MS_REC, "") },
		func() error { return os.Chdir("/.root") },
		func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") },
		func() error { return unix.Chroot(".") },
		func() error { return os.Chdir("/") },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("leaving the initramfs: %w", err)
		}
	}
	return nil
}

// Cgroups makes the groups for containers and helpers with every controller
// that limits need.
func Cgroups() error {
	const controllers = "+cpu +memory +pids +io"
	for _, dir := range []string{"/sys/fs/cgroup", CgroupPods, CgroupHelpers} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making control groups: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(controllers), 0); err != nil {
			return fmt.Errorf("making control groups: %w", err)
		}
	}
	return nil
}

// PowerOff ends the guest at once.
func PowerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	os.Exit(1) // the kernel panics when PID 1 ends, which ends the VM too
}

// Halt says why on the console and ends the guest.
func Halt(log *slog.Logger, err error) {
	log.Error("guest halted", "err", err)
	PowerOff()
}
