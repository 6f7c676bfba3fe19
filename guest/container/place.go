package container

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks bounds the links on the way to one place, as the kernel does.
const maxLinks = 40

var (
	errVolumeLink = errors.New("a link in a volume is on the way")
	errKernelFile = errors.New("leads to the kernel's own files")
)

// place opens (O_PATH) what p, an absolute path in the container's root, names, and makes
// what is missing of it: folders, and at its end a folder or an empty file.
//
// Links of the image are followed and lead to another place inside. One in a volume is
// refused: another container may have put it there, so that what is mounted covers this
// container's programs. Nothing may be mounted over the kernel's own file systems, by
// which the guest asks the kernel.
func place(p string, dir bool) (int, error) {
	fd, err := resolve(p, dir)
	if err != nil {
		return -1, fmt.Errorf("mounting at %s: %w", p, err)
	}
	if err := mayCover(fd); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("mounting at %s: %w", p, err)
	}
	return fd, nil
}

// mayCover refuses the kernel's own file systems, /dev as a whole and devices.
func mayCover(fd int) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	var st, dev unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := unix.Stat("/dev", &dev); err != nil {
		return err
	}
	if kernelFiles(fs.Type) || st.Dev == dev.Dev && st.Ino == dev.Ino || st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return errKernelFile
	}
	return nil
}

func kernelFiles(fs int64) bool {
	switch fs {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC:
		return true
	}
	return false
}

func resolve(p string, dir bool) (int, error) {
	const how = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	root, err := unix.Open("/", how|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	way := []int{root} // the folders from the root to here
	defer func() {
		for _, fd := range way {
			unix.Close(fd)
		}
	}()
	home, err := deviceOf(root)
	if err != nil {
		return -1, err
	}
	todo, links := parts(p), 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		at := way[len(way)-1]
		if name == ".." {
			if len(way) > 1 {
				unix.Close(at)
				way = way[:len(way)-1]
			}
			continue
		}
		last := len(todo) == 0
		fd, err := unix.Openat(at, name, how, 0)
		if errors.Is(err, unix.ENOENT) {
			if err = makeAt(at, name, dir || !last); err == nil || errors.Is(err, unix.EEXIST) { // by another container, in a volume
				fd, err = unix.Openat(at, name, how, 0)
			}
		}
		if err != nil {
			return -1, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			unix.Close(fd)
			return -1, err
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFLNK:
			unix.Close(fd)
			if links++; links > maxLinks {
				return -1, unix.ELOOP
			}
			to, err := imageLink(at, name, home)
			if err != nil {
				return -1, err
			}
			if path.IsAbs(to) {
				for _, fd := range way[1:] {
					unix.Close(fd)
				}
				way = way[:1]
			}
			todo = append(parts(to), todo...)
		case last:
			return fd, nil
		default:
			way = append(way, fd) // if it is no folder, the next step says so
		}
	}
	return -1, errors.New("leads to the container's root")
}

// imageLink reads a link that the image has in the folder at.
func imageLink(at int, name string, home uint64) (string, error) {
	dev, err := deviceOf(at)
	if err != nil {
		return "", err
	}
	if dev != home {
		return "", errVolumeLink
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(at, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// deviceOf gives the device number of a folder, which all folders of an overlay share.
func deviceOf(fd int) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Dev, err
}

func makeAt(at int, name string, dir bool) error {
	if dir {
		return unix.Mkdirat(at, name, 0o755)
	}
	fd, err := unix.Openat(at, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// parts splits a path; ".." stays.
func parts(p string) (out []string) {
	for s := range strings.SplitSeq(p, "/") {
		if s != "" && s != "." {
			out = append(out, s)
		}
	}
	return out
}

// byDescriptor is a path by which mount(2) finds what is open: only before anything of a
// volume can be at /proc, see place.
func byDescriptor(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
