// Package apply is the writer's half of the unpacker: it makes the files that a
// record stream (image/layerstream) describes, in overlayfs's form, inside one
// directory and nowhere else.
//
// Every name is resolved by openat2(2) with RESOLVE_BENEATH: a path that would
// leave the directory through ".." or a symlink, or that runs over an absolute
// symlink, is an error. Whiteouts become character devices 0/0, opaque
// directories the attribute trusted.overlay.opaque (the kernel's documentation,
// filesystems/overlayfs.rst).
//
// Invariants: constant memory, whatever the number of entries; one writer for a
// directory; a whiteout hides only what layers below have, whatever the order of
// the entries; nothing counts as written before the stream's end record.
//
// Trust zone: guest, in a process that may change owners and make nodes but sees
// only the layer's directory and no network. It needs CAP_CHOWN, CAP_DAC_OVERRIDE,
// CAP_FOWNER, CAP_FSETID, CAP_MKNOD and CAP_SETFCAP. It does not have CAP_SYS_ADMIN,
// which trusted attributes need: opaque directories are reported instead and the
// caller marks them with MarkOpaque.
package apply

import (
	"errors"
	"fmt"
	"io"
	"math"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/image/layerstream"
)

// Limits bound what a layer may make, in case the parser lies.
type Limits struct {
	MaxEntries int64 // 0: no limit
	MaxBytes   int64 // 0: no limit but the filesystem's
}

// Result says what was made.
type Result struct {
	Entries int64
	Bytes   int64
	// Opaque lists directories that still need MarkOpaque because this process may
	// not set trusted attributes.
	Opaque []string
}

// maxOpaque bounds Result.Opaque: far above real layers, small enough to send.
const maxOpaque = 10_000

// NoSpaceError says that the filesystem (often a tmpfs, so memory) is full.
type NoSpaceError struct {
	Path    string // entry being written
	Written int64  // bytes of this layer so far
	Total   int64  // the filesystem's size
	Free    int64
	Err     error
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("no space left for the image: filesystem of %d MiB has %d MiB free after %d MiB of this layer, writing %.300q (%v); give the pod more memory",
		e.Total>>20, e.Free>>20, e.Written>>20, e.Path, e.Err)
}

func (e *NoSpaceError) Unwrap() error { return e.Err }

const (
	opaqueXattr = "trusted.overlay.opaque"
	dirFlags    = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
)

// Layer reads the whole stream r into the directory root. The process's umask
// must be 0.
func Layer(r io.Reader, root int, lim Limits) (*Result, error) {
	if lim.MaxEntries == 0 {
		lim.MaxEntries = math.MaxInt64
	}
	if lim.MaxBytes == 0 {
		lim.MaxBytes = math.MaxInt64
	}
	w := &writer{root: root, lim: lim, dec: layerstream.NewDecoder(r), buf: make([]byte, 256<<10)}
	w.parent.fd = -1
	err := w.all()
	if ferr := w.flush(); err == nil {
		err = ferr
	}
	if err != nil {
		return nil, err
	}
	return &w.res, nil
}

type writer struct {
	root   int
	lim    Limits
	dec    *layerstream.Decoder
	buf    []byte
	res    Result
	parent cachedDir
}

func (w *writer) all() error {
	for {
		rec, err := w.dec.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if w.res.Entries++; w.res.Entries > w.lim.MaxEntries {
			return fmt.Errorf("layer has more than %d entries", w.lim.MaxEntries)
		}
		if rec.Size > w.lim.MaxBytes-w.res.Bytes {
			return fmt.Errorf("layer has more than %d bytes", w.lim.MaxBytes)
		}
		if err := w.entry(rec); err != nil {
			return w.explain(rec, err)
		}
	}
}

// explain turns errors of the filesystem into what a person can act on.
func (w *writer) explain(rec *layerstream.Record, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOMEM) {
		e := &NoSpaceError{Path: rec.Path, Written: w.res.Bytes, Err: err}
		var st unix.Statfs_t
		if unix.Fstatfs(w.root, &st) == nil {
			e.Total, e.Free = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
		}
		return e
	}
	return fmt.Errorf("unpacking %v %.300q: %w", rec.Type, rec.Path, err)
}

func (w *writer) entry(rec *layerstream.Record) error {
	switch rec.Type {
	case layerstream.Dir:
		return w.dir(rec)
	case layerstream.Opaque:
		return w.opaque(rec.Path)
	}
	if err := w.enter(rec.Path); err != nil {
		return err
	}
	base := baseOf(rec.Path)
	switch rec.Type {
	case layerstream.File:
		return w.file(rec, base)
	case layerstream.HardLink:
		return w.hardLink(rec, base)
	case layerstream.Symlink:
		return w.symlink(rec, base)
	case layerstream.Char, layerstream.Block, layerstream.FIFO:
		return w.node(rec, base)
	case layerstream.Whiteout:
		return w.whiteout(rec, base)
	}
	return fmt.Errorf("record of %v", rec.Type)
}

// create runs make, once more after what is in the way has been removed: a later
// entry of the same name replaces an earlier one.
func (w *writer) create(base string, create func() error) error {
	w.parent.dirty = true
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := removeAll(w.parent.fd, base, 0); err != nil {
		return fmt.Errorf("replacing an earlier entry: %w", err)
	}
	return create()
}

func (w *writer) file(rec *layerstream.Record, base string) error {
	fd := -1
	err := w.create(base, func() (err error) {
		fd, err = unix.Openat(w.parent.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	if err := w.content(rec, fd); err != nil {
		_ = unix.Close(fd)
		return err
	}
	if err := setMeta(fd, rec); err != nil {
		_ = unix.Close(fd)
		return err
	}
	return unix.Close(fd)
}

func (w *writer) content(rec *layerstream.Record, fd int) error {
	for left := rec.Size; left > 0; {
		n, err := w.dec.Read(w.buf)
		if err != nil && n == 0 {
			return err
		}
		left -= int64(n)
		for b := w.buf[:n]; len(b) > 0; {
			m, err := unix.Write(fd, b)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			b = b[m:]
			w.res.Bytes += int64(m)
		}
	}
	return nil
}

// setMeta sets owner, attributes, mode and times on an open file or directory.
// The order matters: a change of owner drops setuid bits and capabilities.
func setMeta(fd int, rec *layerstream.Record) error {
	if err := unix.Fchown(fd, int(rec.UID), int(rec.GID)); err != nil {
		return fmt.Errorf("owner %d:%d: %w", rec.UID, rec.GID, err)
	}
	for i := range rec.Xattrs {
		x := &rec.Xattrs[i]
		if err := unix.Fsetxattr(fd, x.Name, x.Value, 0); err != nil {
			return fmt.Errorf("attribute %.60q: %w", x.Name, err)
		}
	}
	if err := unix.Fchmod(fd, uint32(rec.Mode)); err != nil {
		return fmt.Errorf("mode %#o: %w", rec.Mode, err)
	}
	if err := unix.UtimesNanoAt(fd, "", times(rec), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

// setMetaAt is setMeta for what cannot be opened: links and nodes.
func (w *writer) setMetaAt(base string, rec *layerstream.Record) error {
	if err := unix.Fchownat(w.parent.fd, base, int(rec.UID), int(rec.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner %d:%d: %w", rec.UID, rec.GID, err)
	}
	if rec.Type != layerstream.Symlink {
		if err := unix.Fchmodat(w.parent.fd, base, uint32(rec.Mode), 0); err != nil {
			return fmt.Errorf("mode %#o: %w", rec.Mode, err)
		}
	}
	if err := unix.UtimesNanoAt(w.parent.fd, base, times(rec), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

func times(rec *layerstream.Record) []unix.Timespec {
	t := unix.Timespec{Sec: rec.MTime, Nsec: int64(rec.MTimeNano)}
	return []unix.Timespec{t, t}
}

func (w *writer) symlink(rec *layerstream.Record, base string) error {
	if err := w.create(base, func() error { return unix.Symlinkat(rec.Link, w.parent.fd, base) }); err != nil {
		return err
	}
	return w.setMetaAt(base, rec)
}

func (w *writer) node(rec *layerstream.Record, base string) error {
	mode := map[layerstream.Type]uint32{layerstream.Char: unix.S_IFCHR, layerstream.Block: unix.S_IFBLK, layerstream.FIFO: unix.S_IFIFO}[rec.Type]
	dev := int(unix.Mkdev(rec.Major, rec.Minor))
	if err := w.create(base, func() error { return unix.Mknodat(w.parent.fd, base, mode|0o600, dev) }); err != nil {
		return err
	}
	return w.setMetaAt(base, rec)
}

// hardLink links to an earlier entry of the same layer. Its metadata is the
// target's.
func (w *writer) hardLink(rec *layerstream.Record, base string) error {
	if rec.Path == rec.Link {
		return errors.New("links to itself")
	}
	from, err := w.open(dirOf(rec.Link))
	if err != nil {
		return fmt.Errorf("target %.300q: %w", rec.Link, err)
	}
	defer unix.Close(from)
	fromBase := baseOf(rec.Link)
	var st unix.Stat_t
	if err := unix.Fstatat(from, fromBase, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("target %.300q is not in this layer: %w", rec.Link, err)
	}
	if isDir(&st) || isWhiteout(&st) {
		return fmt.Errorf("target %.300q is a directory or whiteout", rec.Link)
	}
	var there unix.Stat_t
	if unix.Fstatat(w.parent.fd, base, &there, unix.AT_SYMLINK_NOFOLLOW) == nil && there.Ino == st.Ino && there.Dev == st.Dev {
		return nil // the link is there already
	}
	return w.create(base, func() error { return unix.Linkat(from, fromBase, w.parent.fd, base, 0) })
}

// whiteout hides a name of the layers below. What this layer itself has under
// that name stays, before or after; a directory then hides what it would merge with.
func (w *writer) whiteout(rec *layerstream.Record, base string) error {
	var st unix.Stat_t
	switch err := unix.Fstatat(w.parent.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		w.parent.dirty = true
		return unix.Mknodat(w.parent.fd, base, unix.S_IFCHR, 0)
	case err != nil:
		return err
	case isDir(&st):
		return w.opaque(rec.Path)
	}
	return nil
}

// opaque hides what layers below have in directory path.
func (w *writer) opaque(path string) error {
	fd, err := w.openMake(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return w.markOpaque(fd, path)
}

func (w *writer) markOpaque(fd int, path string) error {
	err := unix.Fsetxattr(fd, opaqueXattr, []byte("y"), 0)
	if err == unix.EPERM {
		if len(w.res.Opaque) >= maxOpaque {
			return fmt.Errorf("more than %d opaque directories", maxOpaque)
		}
		w.res.Opaque = append(w.res.Opaque, path)
		return nil
	}
	if err != nil {
		return fmt.Errorf("attribute %s: %w", opaqueXattr, err)
	}
	return nil
}

// MarkOpaque sets overlayfs's opaque mark on directories (Result.Opaque) below
// root. The caller has CAP_SYS_ADMIN. The paths may come from a process that was
// taken over: they are resolved beneath root and through no symlink.
func MarkOpaque(root int, paths []string) error {
	if len(paths) > maxOpaque {
		return fmt.Errorf("more than %d opaque directories", maxOpaque)
	}
	for _, p := range paths {
		if p == "" {
			p = "."
		}
		fd, err := unix.Openat2(root, p, &unix.OpenHow{Flags: dirFlags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
		if err != nil {
			return fmt.Errorf("opaque directory %.300q: %w", p, err)
		}
		err = unix.Fsetxattr(fd, opaqueXattr, []byte("y"), 0)
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("opaque directory %.300q: %w", p, err)
		}
	}
	return nil
}
