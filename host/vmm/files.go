package vmm

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/host/filedigest"
)

// openLaunched opens f for reading and checks its digest where one is given.
// The digest is of the opened file, so that what was checked is launched.
func openLaunched(digests filedigest.Cache, what string, f launch.File) (*os.File, error) {
	fd, err := os.Open(f.Path)
	if err != nil {
		return nil, fmt.Errorf("opening the %s: %w", what, err)
	}
	fi, err := fd.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Path)
	}
	if err == nil && f.SHA256 != "" {
		err = checkDigest(digests, fd, f)
	}
	if err == nil && fi.Mode().Perm()&0o004 == 0 {
		// QEMU opens /dev/fd/N anew under its own uid.
		return copyToMemory(what, fd)
	}
	if err != nil {
		_ = fd.Close()
		return nil, fmt.Errorf("opening the %s: %w", what, err)
	}
	return fd, nil
}

func checkDigest(digests filedigest.Cache, fd *os.File, f launch.File) error {
	got, err := digests.SHA256(fd, launch.MaxFile)
	if err == nil && got != f.SHA256 {
		err = fmt.Errorf("%s has SHA-256 %s, the launch spec says %s", f.Path, got, f.SHA256)
	}
	return err
}

// memory gives an unnamed file in memory: no path, gone with its last user.
func memory(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate("coffer-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// copyToMemory copies src into memory, closes it, and leaves the copy at its start.
func copyToMemory(what string, src *os.File) (*os.File, error) {
	defer src.Close()
	m, err := memory(what)
	if err != nil {
		return nil, err
	}
	if _, err = src.Seek(0, io.SeekStart); err == nil {
		_, err = io.Copy(m, src)
	}
	if err == nil {
		_, err = m.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("copying the %s: %w", what, err)
	}
	return m, nil
}

// readOnly gives a descriptor of m that cannot write: QEMU picks a member of an
// fd set by its access mode.
func readOnly(m *os.File) (*os.File, error) {
	defer m.Close()
	r, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", m.Fd()))
	if err != nil {
		return nil, fmt.Errorf("reopening a file in memory: %w", err)
	}
	return r, nil
}

// roomForBytes lets a socket hold what a serial port sends until host/console reads it
// next: each of its bytes is a message, and takes as much of the buffer as 700 do.
func roomForBytes(f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = c.Control(func(fd uintptr) {
		if serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20); serr != nil {
			serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
		}
	})
	if err == nil {
		err = serr
	}
	if err != nil {
		return fmt.Errorf("giving the console's socket room: %w", err)
	}
	return nil
}

// socketPair gives our end as a file in Go's poller, and the child's end.
func socketPair(name string) (ours, child *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}
