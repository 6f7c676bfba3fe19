package apply

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/image/layerstream"
)

// cachedDir is the directory of the last entry. Archives list directories in
// runs, so one open directory saves most path walks; and because making an entry
// changes the directory's times, they are remembered here and set back when the
// run ends. That keeps mtimes right without a list of all directories.
type cachedDir struct {
	path  string
	fd    int
	times []unix.Timespec
	dirty bool
}

// enter makes path's directory the current one, creating it where the archive
// left it out.
func (w *writer) enter(path string) error {
	dir := dirOf(path)
	if w.parent.fd >= 0 && w.parent.path == dir {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	fd, err := w.openMake(dir)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return err
	}
	w.parent = cachedDir{path: dir, fd: fd, times: []unix.Timespec{st.Atim, st.Mtim}}
	return nil
}

// flush leaves the current directory.
func (w *writer) flush() error {
	if w.parent.fd < 0 {
		return nil
	}
	var err error
	if w.parent.dirty {
		err = unix.UtimesNanoAt(w.parent.fd, "", w.parent.times, unix.AT_EMPTY_PATH)
	}
	if cerr := unix.Close(w.parent.fd); err == nil {
		err = cerr
	}
	w.parent = cachedDir{fd: -1}
	return err
}

// dir makes a directory or, where this layer has it already, gives it the
// entry's metadata.
func (w *writer) dir(rec *layerstream.Record) error {
	if rec.Path == "" {
		// The root may be the current directory: its remembered times end here.
		if err := w.flush(); err != nil {
			return err
		}
		return setMeta(w.root, rec)
	}
	if err := w.enter(rec.Path); err != nil {
		return err
	}
	fd, err := w.makeDir(w.parent.fd, rec.Path, true)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setMeta(fd, rec)
}

// makeDir gives directory path, whose parent is the open directory at, made
// where it is missing. A whiteout in its place means: new here, and hidden below.
// Any other thing is replaced if an entry asks for it, else an error.
func (w *writer) makeDir(at int, path string, replace bool) (int, error) {
	base := baseOf(path)
	hidden := false
	err := unix.Mkdirat(at, base, 0o755)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return -1, err
		}
		switch {
		case isDir(&st):
			return unix.Openat(at, base, dirFlags|unix.O_NOFOLLOW, 0)
		case isWhiteout(&st):
			hidden = true
		case !replace:
			return -1, fmt.Errorf("%.300q: %w", path, unix.ENOTDIR)
		}
		if err := unix.Unlinkat(at, base, 0); err != nil {
			return -1, err
		}
		err = unix.Mkdirat(at, base, 0o755)
	}
	if err != nil {
		return -1, err
	}
	if at == w.parent.fd {
		w.parent.dirty = true
	}
	fd, err := unix.Openat(at, base, dirFlags|unix.O_NOFOLLOW, 0)
	if err == nil && hidden {
		if err = w.markOpaque(fd, path); err != nil {
			_ = unix.Close(fd)
			fd = -1
		}
	}
	return fd, err
}

// open opens directory path (relative to the layer's root, "" the root itself).
// Symlinks inside the layer are followed, never out of it.
func (w *writer) open(path string) (int, error) {
	if path == "" {
		path = "."
	}
	how := &unix.OpenHow{Flags: dirFlags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(w.root, path, how)
		switch {
		case (err == unix.EAGAIN || err == unix.EINTR) && try < 100: // a rename somewhere on the machine
			continue
		case err == unix.EXDEV:
			return -1, fmt.Errorf("%.300q leads out of the layer or over an absolute symlink", path)
		}
		return fd, err
	}
}

// openMake is open that makes missing directories.
func (w *writer) openMake(path string) (int, error) {
	fd, err := w.open(path)
	if path == "" || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
		return fd, err
	}
	at, err := w.openMake(dirOf(path)) // at most layerstream.MaxDepth deep
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	// Making an entry changes the parent's time; keep what its own entry said.
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return -1, err
	}
	fd, err = w.makeDir(at, path, false)
	if err != nil {
		return -1, err
	}
	if err := unix.UtimesNanoAt(at, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// removeAll removes base of directory at with all below, following nothing.
func removeAll(at int, base string, depth int) error {
	err := unix.Unlinkat(at, base, 0)
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	if depth > layerstream.MaxDepth {
		return fmt.Errorf("directories deeper than %d", layerstream.MaxDepth)
	}
	fd, err := unix.Openat(at, base, dirFlags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), base)
	defer d.Close()
	for {
		names, err := d.Readdirnames(256)
		for _, n := range names {
			if err := removeAll(fd, n, depth+1); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		// Removing while reading may skip names on some filesystems: start over.
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	return unix.Unlinkat(at, base, unix.AT_REMOVEDIR)
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

func dirOf(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}

func baseOf(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }
