package container

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLayers is the kernel's limit for lower layers of one overlay.
const maxLayers = 500

// buildRoot makes the container's file system and enters it. Sources outside
// are opened as detached mounts first; everything inside is done after
// pivot_root, so that a link in the image can only lead to another place inside.
func buildRoot(cfg *Config) (*identity, error) {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("making mounts private: %w", err)
	}
	rootfs, err := mountOverlay(cfg)
	if err != nil {
		return nil, err
	}
	id, err := identify(rootfs, &cfg.Process.User)
	if err != nil {
		return nil, err
	}
	open := openBind
	var st *stage
	if cfg.LibraryOS {
		if st, err = newStage(rootfs); err != nil {
			return nil, err
		}
		open = st.bind
	}
	binds, err := openBinds(cfg, open)
	if err != nil {
		return nil, err
	}
	if err := pivot(rootfs); err != nil {
		return nil, err
	}
	if err := mountFixed(); err != nil {
		return nil, err
	}
	if err := makeBlockDevices(cfg.Devices, id); err != nil {
		return nil, err
	}
	null, err := unix.Open("/dev/null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) // before any volume is there
	if err != nil {
		return nil, fmt.Errorf("opening /dev/null: %w", err)
	}
	defer unix.Close(null)
	for _, v := range cfg.Volumes {
		if !slices.ContainsFunc(cfg.Mounts, func(m Mount) bool { return strings.HasPrefix(v+"/", path.Clean(m.Destination)+"/") }) {
			binds = append(binds, bind{fd: -1, dest: v}) // else the mount is what keeps its files
		}
	}
	// Outer ones first: a mount hides what was mounted below it before, and an
	// image's volume must not put its own files in a verified one's place.
	slices.SortStableFunc(binds, func(a, b bind) int { return cmp.Compare(a.order(), b.order()) })
	for _, b := range binds {
		if err := b.attach(); err != nil {
			return nil, err
		}
	}
	if err := st.remove(); err != nil {
		return nil, err
	}
	for _, p := range cfg.ReadOnlyPaths {
		if err := readOnlyPath(p); err != nil {
			return nil, err
		}
	}
	for _, p := range cfg.Masked {
		if err := mask(p, null); err != nil {
			return nil, err
		}
	}
	return id, nil
}

// mountOverlay mounts the layers with a fresh upper and gives the mount point.
func mountOverlay(cfg *Config) (string, error) {
	if len(cfg.Layers) == 0 || len(cfg.Layers) > maxLayers {
		return "", fmt.Errorf("mounting the image: %d layers, must be 1 to %d", len(cfg.Layers), maxLayers)
	}
	dirs := map[string]string{}
	for _, d := range []string{"upper", "work", "rootfs"} {
		p := filepath.Join(cfg.Scratch, d)
		if err := os.Mkdir(p, 0o755); err != nil {
			return "", fmt.Errorf("mounting the image: %w", err)
		}
		dirs[d] = p
	}
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("mounting the image: overlay: %w", err)
	}
	defer unix.Close(fd)
	set := func(key, value string) {
		if err == nil {
			if err = unix.FsconfigSetString(fd, key, value); err != nil {
				err = fmt.Errorf("mounting the image: overlay %s: %w", key, err)
			}
		}
	}
	set("source", "overlay")
	if cfg.LibraryOS {
		lower, lerr := joinLayers(cfg.Layers)
		if lerr != nil {
			return "", lerr
		}
		set("lowerdir", lower)
	} else {
		for _, l := range cfg.Layers {
			set("lowerdir+", l)
		}
	}
	set("upperdir", dirs["upper"])
	set("workdir", dirs["work"])
	if err != nil {
		return "", err
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return "", fmt.Errorf("mounting the image: overlay of %d layers: %w", len(cfg.Layers), err)
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("mounting the image: %w", err)
	}
	defer unix.Close(mnt)
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, dirs["rootfs"], unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", fmt.Errorf("mounting the image: %w", err)
	}
	return dirs["rootfs"], nil
}

func identify(rootfs string, u *User) (*identity, error) {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return nil, fmt.Errorf("opening the image: %w", err)
	}
	defer root.Close()
	passwd, groups, err := readAccounts(root)
	if err != nil {
		return nil, err
	}
	return u.resolve(passwd, groups)
}

func pivot(rootfs string) error {
	if err := os.Chdir(rootfs); err != nil {
		return fmt.Errorf("entering the image: %w", err)
	}
	// The old root is stacked below the new one at "/"; detaching "." drops it.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("entering the image: pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("entering the image: leaving the guest's root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("entering the image: %w", err)
	}
	return nil
}

func depth(p string) int { return strings.Count(path.Clean(p), "/") }

// bind is an open, detached mount and where it goes.
type bind struct {
	fd     int    // -1: what is there already, as a mount of its own; or staged
	staged string // where it is mounted until then (stage)
	dest   string
	dir    bool
	first  bool // before all others, so that it covers none of them by a link of the image's
}

func (b bind) order() int {
	if b.first {
		return -1
	}
	return depth(b.dest)
}

func openBinds(cfg *Config, open func(source, sub, dest string, attrs uint64) (bind, error)) ([]bind, error) {
	var out []bind
	add := func(source, sub, dest string, attrs uint64) error {
		b, err := open(source, sub, dest, attrs)
		if err == nil {
			out = append(out, b)
		}
		return err
	}
	const volume = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	if cfg.Shm != "" {
		if err := add(cfg.Shm, "", "/dev/shm", volume|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return nil, err
		}
	}
	if cfg.TerminationLog != "" {
		if err := add(cfg.TerminationLog, "", cfg.TerminationPath, volume|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return nil, err
		}
		out[len(out)-1].first = true // its path is the pod's, and may lead through the image's links
	}
	if cfg.Etc != "" {
		attrs := uint64(volume | unix.MOUNT_ATTR_NOEXEC)
		if cfg.ReadOnlyRoot {
			attrs |= unix.MOUNT_ATTR_RDONLY
		}
		for _, f := range []string{"hosts", "hostname", "resolv.conf"} {
			own, err := ownCopy(cfg, f)
			if err != nil {
				return nil, err
			}
			if err := add(own, "", "/etc/"+f, attrs); err != nil {
				return nil, err
			}
		}
	}
	for _, m := range cfg.Mounts {
		if !path.IsAbs(m.Destination) || path.Clean(m.Destination) == "/" {
			return nil, fmt.Errorf("mounting at %q: not an absolute path below the root", m.Destination)
		}
		if m.SubPath != "" && m.MakeSubPath {
			if err := makeSubPath(m.Source, m.SubPath); err != nil {
				return nil, err
			}
		}
		attrs := uint64(volume)
		if m.ReadOnly {
			attrs |= unix.MOUNT_ATTR_RDONLY
		}
		if err := add(m.Source, m.SubPath, m.Destination, attrs); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// maxEtc bounds one of the guest-made files, in bytes.
const maxEtc = 1 << 20

// ownCopy makes the container's own copy of a guest-made file: what it writes there is
// neither another container's nor the guest's.
func ownCopy(cfg *Config, name string) (string, error) {
	f, err := os.Open(filepath.Join(cfg.Etc, name))
	if err != nil {
		return "", fmt.Errorf("preparing /etc/%s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEtc))
	if err != nil {
		return "", fmt.Errorf("preparing /etc/%s: %w", name, err)
	}
	own := filepath.Join(cfg.Scratch, name)
	if err := os.WriteFile(own, b, 0o644); err != nil {
		return "", fmt.Errorf("preparing /etc/%s: %w", name, err)
	}
	return own, nil
}

func makeSubPath(source, sub string) error {
	root, err := os.OpenRoot(source)
	if err != nil {
		return fmt.Errorf("opening volume: %w", err)
	}
	defer root.Close()
	if _, err := root.Stat(sub); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// As the kubelet makes them: the last one is as open to the pod's users as the volume.
	fi, err := root.Stat(".")
	if err == nil {
		err = root.MkdirAll(sub, 0o755)
	}
	if err == nil {
		err = root.Chmod(sub, fi.Mode()&(fs.ModePerm|fs.ModeSetgid))
	}
	if err != nil {
		return fmt.Errorf("making sub-path of volume: %w", err)
	}
	return nil
}

func openBind(source, sub, dest string, attrs uint64) (bind, error) {
	fail := func(err error) (bind, error) { return bind{}, fmt.Errorf("mounting at %s: %w", dest, err) }
	at, err := unix.Open(source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(at)
	if sub != "" {
		// Another container of the pod may change links in a shared volume at any
		// time; the kernel resolves this path inside the volume.
		in, err := unix.Openat2(at, sub, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		if err != nil {
			return fail(err)
		}
		defer unix.Close(in)
		at = in
	}
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return fail(err)
	}
	fd, err := unix.OpenTree(at, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fail(err)
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attrs}); err != nil {
		unix.Close(fd)
		return fail(err)
	}
	return bind{fd: fd, dest: dest, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

func (b bind) attach() error {
	if b.staged != "" {
		return b.attachStaged()
	}
	if b.fd < 0 {
		return selfBind(b.dest)
	}
	defer unix.Close(b.fd)
	at, err := place(b.dest, b.dir)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if err := unix.MoveMount(b.fd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("mounting at %s: %w", b.dest, err)
	}
	return nil
}

// makeMountPoint makes a missing directory or empty file to mount over.
func makeMountPoint(p string, dir bool) error {
	if _, err := os.Stat(p); err == nil {
		return nil
	}
	parent := p
	if !dir {
		parent = path.Dir(p)
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("making mount point: %w", err)
	}
	if dir {
		return nil
	}
	f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return fmt.Errorf("making mount point: %w", err)
	}
	return f.Close()
}
