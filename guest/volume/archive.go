package volume

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
)

// pack writes what is in a folder as a tar archive: folders, files, symbolic and hard
// links, with owners, modes and times. Sockets, pipes and devices are left out.
// Containers may still have the folder: nothing outside of it is read.
func pack(w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := tar.NewWriter(w)
	seen := map[uint64]string{} // names by inode, of files with several
	err = fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return packOne(t, root, name, seen)
	})
	if err != nil {
		return fmt.Errorf("packing: %w", err)
	}
	return t.Close()
}

func packOne(t *tar.Writer, root *os.Root, name string, seen map[uint64]string) error {
	fi, err := root.Lstat(name)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no owner", name)
	}
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: fi.ModTime(), Format: tar.FormatPAX,
	}
	switch fi.Mode().Type() {
	case fs.ModeDir:
		h.Typeflag = tar.TypeDir
	case fs.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = root.Readlink(name); err != nil {
			return err
		}
	case 0:
		h.Typeflag, h.Size = tar.TypeReg, fi.Size()
		if first := seen[st.Ino]; first != "" {
			h.Typeflag, h.Size, h.Linkname = tar.TypeLink, 0, first
		} else if st.Nlink > 1 {
			seen[st.Ino] = name
		}
	default:
		return nil
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg || h.Size == 0 {
		return nil
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(t, f, h.Size)
	return err
}

// unpack makes an archive's files in an empty folder.
func unpack(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := tar.NewReader(r)
	var folders []*tar.Header // whose times and modes come last
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = unpackOne(t, root, h)
		}
		if err != nil {
			return fmt.Errorf("unpacking: %w", err)
		}
		if h.Typeflag == tar.TypeDir {
			folders = append(folders, h)
		}
	}
	for _, h := range folders {
		if err := settle(root, h); err != nil {
			return fmt.Errorf("unpacking: %w", err)
		}
	}
	return nil
}

func unpackOne(t *tar.Reader, root *os.Root, h *tar.Header) error {
	name := path.Clean(h.Name)
	if !filepath.IsLocal(name) {
		return fmt.Errorf("%.100q leaves the volume", h.Name)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if name == "." {
			return nil
		}
		return root.Mkdir(name, 0o700)
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return root.Lchown(name, h.Uid, h.Gid)
	case tar.TypeLink:
		return root.Link(path.Clean(h.Linkname), name)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, t)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		return settle(root, h)
	}
	return fmt.Errorf("%.100q is of type %q", h.Name, h.Typeflag)
}

// settle gives a file or folder its owner, mode and times.
func settle(root *os.Root, h *tar.Header) error {
	name := path.Clean(h.Name)
	if err := root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode & 0o777)
	for bit, m := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if h.Mode&bit != 0 {
			mode |= m
		}
	}
	if err := root.Chmod(name, mode); err != nil {
		return err
	}
	return root.Chtimes(name, h.ModTime, h.ModTime)
}
