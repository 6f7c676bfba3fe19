package libos

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/launch"
	contract "github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/host/filedigest"
)

const maxProgram = 512 << 20

// makeBundle writes what the runtime starts from: the configuration, and a root file
// system of the agent and empty folders. The files are copies, so that what is
// measured and run cannot change with what they were copied from.
func makeBundle(dir string, spec *launch.Spec, digests filedigest.Cache) error {
	rootfs := filepath.Join(dir, contract.RootFS)
	for _, f := range append([]string{""}, contract.Folders...) {
		if err := os.MkdirAll(filepath.Join(rootfs, f), 0o755); err != nil {
			return fmt.Errorf("making the root file system: %w", err)
		}
	}
	if err := copyProgram(filepath.Join(rootfs, contract.Agent), spec.Initrd, digests); err != nil {
		return fmt.Errorf("making the root file system: %w", err)
	}
	config, err := contract.Config(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, contract.ConfigFile), config, 0o600); err != nil {
		return fmt.Errorf("writing the runtime's configuration: %w", err)
	}
	return nil
}

// copyProgram copies from a file whose digest is right before the copy and after it.
func copyProgram(to string, from launch.File, digests filedigest.Cache) (err error) {
	src, err := os.Open(from.Path)
	if err != nil {
		return err
	}
	defer src.Close()
	check := func() error {
		if from.SHA256 == "" {
			return nil
		}
		got, err := digests.SHA256(src, maxProgram)
		if err == nil && got != from.SHA256 {
			err = fmt.Errorf("%s has SHA-256 %s, the launch spec says %s", from.Path, got, from.SHA256)
		}
		return err
	}
	if err := check(); err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	n, err := io.Copy(dst, io.LimitReader(src, maxProgram+1))
	if err != nil {
		return err
	}
	if n > maxProgram {
		return fmt.Errorf("%s is longer than %d bytes", from.Path, maxProgram)
	}
	return check()
}

// memoryFile gives an unnamed file in memory that nobody can change any more.
func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("coffer-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(content); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("writing a file in memory: %w", err)
	}
	return f, nil
}

// reader opens a file in memory anew, for reading from its start.
func reader(f *os.File) (*os.File, error) {
	r, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("opening a file in memory: %w", err)
	}
	return r, nil
}

// socketPair gives our end in Go's poller, and the child's end.
func socketPair(name string) (ours, child *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("making a socket pair: %w", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}
