package volume

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Records of a file with holes: its size, and where its content lies, "OFFSET+LENGTH"
// with commas between. The content is those parts, one behind the other.
const (
	recordSize  = "COFFER.size"
	recordParts = "COFFER.parts"
)

// holeSize is the unit in which a file's content is looked through for zeros, in bytes.
const holeSize = 64 << 10

// maxParts bounds a file's parts: what lies behind the last one is all content.
const maxParts = 1024

// part is a piece of a file that is not all zeros.
type part struct{ offset, length int64 }

// pack writes what is in a folder as a tar archive: folders, files, symbolic and hard
// links, with owners, modes and times, and without zeros. Sockets, pipes, devices and
// extended attributes are left out. Nothing outside of the folder is read.
func pack(w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	p := &packer{t: tar.NewWriter(w), root: root, seen: map[uint64]string{}}
	if err := p.folder("."); err != nil {
		return fmt.Errorf("packing: %w", err)
	}
	return p.t.Close()
}

type packer struct {
	t    *tar.Writer
	root *os.Root
	seen map[uint64]string // names by inode, of files with several
}

// folder packs a folder and what is in it. Names are any bytes.
func (p *packer) folder(name string) error {
	if err := p.one(name); err != nil {
		return err
	}
	f, err := p.root.Open(name)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, e := range entries {
		sub := path.Join(name, e.Name())
		if e.IsDir() {
			err = p.folder(sub)
		} else {
			err = p.one(sub)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) one(name string) error {
	fi, err := p.root.Lstat(name)
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
		if h.Linkname, err = p.root.Readlink(name); err != nil {
			return err
		}
	case 0:
		if first := p.seen[st.Ino]; first != "" {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			break
		}
		if st.Nlink > 1 {
			p.seen[st.Ino] = name
		}
		return p.file(h, fi.Size())
	default:
		return nil
	}
	return p.t.WriteHeader(h)
}

func (p *packer) file(h *tar.Header, size int64) error {
	f, err := p.root.Open(h.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	parts, content, err := partsOf(f, size)
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, content
	if content < size {
		h.PAXRecords = map[string]string{recordSize: strconv.FormatInt(size, 10), recordParts: formatParts(parts)}
	}
	if err := p.t.WriteHeader(h); err != nil {
		return err
	}
	for _, x := range parts {
		if n, err := io.Copy(p.t, io.NewSectionReader(f, x.offset, x.length)); err != nil || n != x.length {
			return errors.Join(err, fmt.Errorf("%s: %d bytes in the place of %d", h.Name, n, x.length))
		}
	}
	return nil
}

// partsOf finds what of a file is not zeros.
func partsOf(f io.ReaderAt, size int64) (parts []part, content int64, err error) {
	b := make([]byte, holeSize)
	zeros := make([]byte, holeSize)
	for at := int64(0); at < size; at += holeSize {
		n := min(holeSize, size-at)
		if _, err := f.ReadAt(b[:n], at); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, err
		}
		full := len(parts) == maxParts
		if !full && bytes.Equal(b[:n], zeros[:n]) {
			continue
		}
		content += n
		if i := len(parts) - 1; i >= 0 && (full || parts[i].offset+parts[i].length == at) {
			content += at - parts[i].offset - parts[i].length // what lies between belongs to it then
			parts[i].length = at + n - parts[i].offset
		} else {
			parts = append(parts, part{at, n})
		}
	}
	return parts, content, nil
}

func formatParts(parts []part) string {
	var b strings.Builder
	for i, x := range parts {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d+%d", x.offset, x.length)
	}
	return b.String()
}

// parseParts reads the parts of a file of this size, of which there are content bytes.
func parseParts(s string, size, content int64) ([]part, error) {
	var out []part
	end, sum := int64(0), int64(0)
	if s == "" {
		if content != 0 {
			return nil, errors.New("no parts")
		}
		return nil, nil
	}
	for w := range strings.SplitSeq(s, ",") {
		a, b, ok := strings.Cut(w, "+")
		offset, err1 := strconv.ParseInt(a, 10, 64)
		length, err2 := strconv.ParseInt(b, 10, 64)
		if !ok || err1 != nil || err2 != nil || offset < end || length < 1 || length > size || offset > size-length || len(out) == maxParts {
			return nil, fmt.Errorf("part %.40q", w)
		}
		out, end, sum = append(out, part{offset, length}), offset+length, sum+length
	}
	if sum != content {
		return nil, fmt.Errorf("parts of %d bytes, and %d of content", sum, content)
	}
	return out, nil
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
		err = writeParts(f, t, h)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		return settle(root, h)
	}
	return fmt.Errorf("%.100q is of type %q", h.Name, h.Typeflag)
}

// writeParts writes a file's content to where it belongs.
func writeParts(f *os.File, r io.Reader, h *tar.Header) error {
	text, holes := h.PAXRecords[recordSize]
	if !holes {
		_, err := io.Copy(f, r)
		return err
	}
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil || size < h.Size {
		return fmt.Errorf("%.100q has size %.40q", h.Name, text)
	}
	parts, err := parseParts(h.PAXRecords[recordParts], size, h.Size)
	if err != nil {
		return fmt.Errorf("%.100q: %w", h.Name, err)
	}
	for _, x := range parts {
		if _, err := io.CopyN(io.NewOffsetWriter(f, x.offset), r, x.length); err != nil {
			return err
		}
	}
	return f.Truncate(size)
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
