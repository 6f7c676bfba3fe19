package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Numbers of the pseudo-terminal devices and their file system.
const (
	ptmxMajor, ptmxMinor = 5, 2
	devptsMagic          = 0x1cd1
)

// openTerminal makes a terminal of the container's own instance, makes its
// slave this process's stdin, stdout, stderr and controlling terminal, and gives
// the master's descriptor.
func openTerminal(p *Process, uid uint32) (int, error) {
	master, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("making terminal: %w", err)
	}
	fail := func(err error) (int, error) {
		unix.Close(master)
		return -1, fmt.Errorf("making terminal: %w", err)
	}
	if err := checkTerminalMaster(master); err != nil {
		return fail(err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fail(err)
	}
	// By the master, not by a name that somebody in the container may have replaced.
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fail(errno)
	}
	slave := int(peer)
	if p.Rows != 0 || p.Columns != 0 {
		if err := resize(master, p.Rows, p.Columns); err != nil {
			return fail(err)
		}
	}
	if err := unix.Fchown(slave, int(uid), -1); err != nil {
		return fail(err)
	}
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return fail(err)
		}
	}
	unix.Close(slave)
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return fail(err)
	}
	return master, nil
}

// checkTerminalMaster refuses anything but a pseudo-terminal: in an exec, the
// container's own processes could have replaced the file.
func checkTerminalMaster(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(st.Rdev) != ptmxMajor || unix.Minor(st.Rdev) != ptmxMinor ||
		sfs.Type != devptsMagic {
		return fmt.Errorf("/dev/pts/ptmx is not a terminal multiplexer")
	}
	return nil
}

func resize(fd int, rows, columns uint16) error {
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
}

// bindConsole shows the container's terminal as /dev/console.
func bindConsole() error {
	if err := makeMountPoint("/dev/console", false); err != nil {
		return err
	}
	name, err := os.Readlink("/proc/self/fd/0")
	if err != nil {
		return fmt.Errorf("finding terminal: %w", err)
	}
	if err := unix.Mount(name, "/dev/console", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting /dev/console: %w", err)
	}
	return nil
}
