package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// mountFixed mounts what every container has, inside its new root.
func mountFixed() error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		fstype, dest string
		flags        uintptr
		data         string
	}{
		{"proc", "/proc", safe, ""},
		{"tmpfs", "/dev", unix.MS_NOSUID | unix.MS_STRICTATIME, "mode=755,size=1m"},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"mqueue", "/dev/mqueue", safe, ""},
		{"sysfs", "/sys", safe | unix.MS_RDONLY, ""},
		{"cgroup2", "/sys/fs/cgroup", safe | unix.MS_RDONLY, ""},
	} {
		if m.fstype != "cgroup2" { // sysfs has the directory already
			if err := makeMountPoint(m.dest, true); err != nil {
				return err
			}
		}
		if err := unix.Mount(m.fstype, m.dest, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.dest, err)
		}
	}
	return makeDevices()
}

// makeDevices fills /dev with the nodes of the OCI runtime specification and no
// other: no TPM, no console, no disk.
func makeDevices() error {
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
	} {
		if err := unix.Mknod("/dev/"+d.name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("making /dev/%s: %w", d.name, err)
		}
	}
	for _, l := range [][2]string{
		{"pts/ptmx", "/dev/ptmx"}, {"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"},
	} {
		if err := os.Symlink(l[0], l[1]); err != nil {
			return fmt.Errorf("making %s: %w", l[1], err)
		}
	}
	return nil
}

// makeBlockDevices makes the nodes of the container's block devices, which are its user's.
// It comes before volumes are mounted, so that none is made in one.
func makeBlockDevices(devices []Device, id *identity) error {
	for _, d := range devices {
		if err := os.MkdirAll(path.Dir(d.Path), 0o755); err != nil {
			return fmt.Errorf("making device %s: %w", d.Path, err)
		}
		mode := uint32(unix.S_IFBLK | 0o600)
		if d.ReadOnly {
			mode = unix.S_IFBLK | 0o400
		}
		err := unix.Mknod(d.Path, mode, int(d.Number))
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making device %s: the image has something there", d.Path)
		}
		if err == nil {
			err = unix.Lchown(d.Path, int(id.UID), int(id.GID))
		}
		if err != nil {
			return fmt.Errorf("making device %s: %w", d.Path, err)
		}
	}
	return nil
}

// selfBind keeps a path a mount of its own, so that a read-only root does not cover it.
func selfBind(p string) error {
	at, err := place(p, true)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if err := unix.Mount(byDescriptor(at), byDescriptor(at), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting volume at %s: %w", p, err)
	}
	return nil
}

// remountReadOnly makes the mount at p read-only and keeps its other flags.
func remountReadOnly(p string) error {
	if err := addMountFlags(p, unix.MOUNT_ATTR_RDONLY); err != nil {
		return fmt.Errorf("making %s read-only: %w", p, err)
	}
	return nil
}

func readOnlyPath(p string) error {
	if err := unix.Mount(p, p, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("making %s read-only: %w", p, err)
	}
	return remountReadOnly(p)
}

// mask hides a file behind null, the opened /dev/null, and a directory behind an empty one.
func mask(p string, null int) error {
	fi, err := os.Stat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("hiding %s: %w", p, err)
	}
	if fi.IsDir() {
		err = unix.Mount("tmpfs", p, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=0")
	} else {
		err = unix.Mount(byDescriptor(null), p, "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("hiding %s: %w", p, err)
	}
	return nil
}
