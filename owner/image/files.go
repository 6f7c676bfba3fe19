package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/cofferproject/coffer/image/unpack"
)

// files is a read-only folder: a directory or a tar file. Names are relative and
// never leave it.
type files interface {
	open(name string) (io.ReadCloser, int64, error)
	Close() error
}

// readSmall reads a whole document.
func readSmall(f files, name string, limit int64) ([]byte, error) {
	rc, size, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes: more than %d", name, size, limit)
	}
	return io.ReadAll(io.LimitReader(rc, limit))
}

type dirFiles struct{ root *os.Root }

func openDir(dir string) (files, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening image: %w", err)
	}
	return &dirFiles{r}, nil
}

func (d *dirFiles) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", name)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

func (d *dirFiles) Close() error { return d.root.Close() }

// tarFiles is a tar file with an index of its members, read once.
type tarFiles struct {
	f     *os.File
	index map[string]member
}

type member struct {
	off, size int64
	link      string
}

// maxMembers bounds an archive's index.
const maxMembers = 100_000

func openTar(name string) (files, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("opening image: %w", err)
	}
	t := &tarFiles{f: f, index: map[string]member{}}
	if err := t.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening image %s: %w", name, err), t.Close())
	}
	return t, nil
}

func (t *tarFiles) prepare() error {
	var magic [2]byte
	if _, err := t.f.ReadAt(magic[:], 0); err != nil {
		return err
	}
	if bytes.Equal(magic[:], []byte{0x1f, 0x8b}) {
		return errors.New("the archive itself is compressed: gunzip it first")
	}
	in := &offsetReader{r: t.f}
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if len(t.index) >= maxMembers {
			return fmt.Errorf("more than %d members", maxMembers)
		}
		m := member{off: in.n, size: h.Size}
		switch h.Typeflag {
		case tar.TypeReg:
		case tar.TypeSymlink: // docker save names a repeated layer so
			m.link = path.Join(path.Dir(h.Name), h.Linkname) //nolint:gosec // a key of the index, never a path on disk
		case tar.TypeLink:
			m.link = path.Clean(h.Linkname)
		default:
			continue
		}
		t.index[path.Clean(strings.TrimPrefix(h.Name, "/"))] = m
	}
}

// offsetReader knows how far it has read; seeking keeps the index quick.
type offsetReader struct {
	r *os.File
	n int64
}

func (o *offsetReader) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	o.n += int64(n)
	return n, err
}

// Seek lets archive/tar skip content.
func (o *offsetReader) Seek(off int64, whence int) (int64, error) {
	n, err := o.r.Seek(off, whence)
	if err == nil {
		o.n = n
	}
	return n, err
}

func (t *tarFiles) open(name string) (io.ReadCloser, int64, error) {
	m, ok := t.index[path.Clean(name)]
	for i := 0; ok && m.link != ""; i++ {
		if i > 8 {
			return nil, 0, fmt.Errorf("%s: too many links", name)
		}
		m, ok = t.index[m.link]
	}
	if !ok {
		return nil, 0, fmt.Errorf("archive has no %s: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(t.f, m.off, m.size)), m.size, nil
}

func (t *tarFiles) Close() error { return t.f.Close() }

// unpacked gives the plain bytes of a layer, which may be compressed, and whether
// it was. Close closes rc too.
func unpacked(rc io.ReadCloser) (_ io.ReadCloser, packed bool, _ error) {
	plain, packed, err := unpack.Decompress(rc)
	if err != nil {
		return nil, false, errors.Join(err, rc.Close())
	}
	return &closeBoth{plain, rc}, packed, nil
}

type closeBoth struct {
	io.ReadCloser
	under io.Closer
}

func (c *closeBoth) Close() error { return errors.Join(c.ReadCloser.Close(), c.under.Close()) }
