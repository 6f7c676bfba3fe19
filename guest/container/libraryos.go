package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What a container's root takes where the kernel is a library OS: gVisor has no
// mount_setattr, no openat2, no detached mount of a file, and another way to name an
// overlay's layers. What follows gives the same root with what it has.

// joinLayers gives the layers as one option, which is as long as a page and no longer.
func joinLayers(layers []string) (string, error) {
	const page = 4096
	s := strings.Join(layers, ":")
	if len(s) >= page || strings.Count(s, ":") != len(layers)-1 || strings.Contains(s, `\`) {
		return "", fmt.Errorf("mounting the image: %d layers are more than a library OS can stack", len(layers))
	}
	return s, nil
}

// stageDir is in a container's root until the root is complete.
const stageDir = ".coffer-stage"

// stage takes in mounts from outside, where the names are the guest's own, before
// the root is entered; inside they are bound to where they belong, with the flags
// that they got here.
type stage struct {
	outside string
	n       int
}

// newStage makes one in rootfs; an image that has something there is refused.
func newStage(rootfs string) (*stage, error) {
	s := &stage{outside: filepath.Join(rootfs, stageDir)}
	if err := os.Mkdir(s.outside, 0o700); err != nil {
		return nil, fmt.Errorf("preparing mounts: %w", err)
	}
	if err := unix.Mount("tmpfs", s.outside, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=1m,mode=0700"); err != nil {
		return nil, fmt.Errorf("preparing mounts: %w", err)
	}
	return s, nil
}

// bind is openBind for a library OS.
func (s *stage) bind(source, sub, dest string, attrs uint64) (bind, error) {
	fail := func(err error) (bind, error) { return bind{}, fmt.Errorf("mounting at %s: %w", dest, err) }
	if sub != "" {
		return fail(fmt.Errorf("a sub-path of a volume: %w", errLibraryOS))
	}
	fi, err := os.Lstat(source)
	if err != nil {
		return fail(err)
	}
	if !fi.IsDir() && !fi.Mode().IsRegular() {
		return fail(errors.New("neither a folder nor a file"))
	}
	s.n++
	name := strconv.Itoa(s.n)
	p := filepath.Join(s.outside, name)
	if err := makeMountPoint(p, fi.IsDir()); err != nil {
		return fail(err)
	}
	if err := unix.Mount(source, p, "", unix.MS_BIND, ""); err != nil {
		return fail(err)
	}
	if err := addMountFlags(p, attrs); err != nil {
		return fail(err)
	}
	return bind{fd: -1, staged: filepath.Join("/", stageDir, name), dest: dest, dir: fi.IsDir()}, nil
}

// attachStaged moves a staged mount to its place.
func (b bind) attachStaged() error {
	at, err := place(b.dest, b.dir)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	// A bind has the flags of what it is of.
	if err := unix.Mount(b.staged, byDescriptor(at), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting at %s: %w", b.dest, err)
	}
	if err := unix.Unmount(b.staged, 0); err != nil {
		return fmt.Errorf("mounting at %s: %w", b.dest, err)
	}
	return nil
}

// remove takes the stage away, from inside. A nil stage is none.
func (s *stage) remove() error {
	if s == nil {
		return nil
	}
	p := filepath.Join("/", stageDir)
	if err := unix.Unmount(p, 0); err != nil {
		return fmt.Errorf("preparing mounts: %w", err)
	}
	if err := os.Remove(p); err != nil {
		return fmt.Errorf("preparing mounts: %w", err)
	}
	return nil
}

// addMountFlags sets attributes (MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC) of the
// mount at p and keeps its others.
func addMountFlags(p string, attrs uint64) error {
	err := unix.MountSetattr(unix.AT_FDCWD, p, 0, &unix.MountAttr{Attr_set: attrs})
	if !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// A remount sets all flags, so those that are there are said again. The attributes
	// are the same bits in all three interfaces.
	const known = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	var st unix.Statfs_t
	if err := unix.Statfs(p, &st); err != nil {
		return err
	}
	flags := uintptr(st.Flags)&known | uintptr(attrs)
	return unix.Mount("", p, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
}
