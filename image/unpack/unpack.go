// Package unpack is the parser's half of the unpacker: it turns one layer's
// bytes (tar, tar+gzip or tar+zstd; decrypted already) into a record stream
// (image/layerstream) and verifies the layer's diffID. It touches no file.
//
// The formats are those of the OCI image specification ("Image Layer Filesystem
// Changeset") and its Docker forerunner, with the whiteouts of both.
//
// Invariants: constant memory, whatever the layer's size and number of entries
// (zstd: its window, at most MaxWindow); the end record is written only after the
// source has ended with io.EOF, which a verifying source (registry blob, decryptor)
// gives only for the right bytes, and after the diffID has been compared; ".." in
// a name is refused, never resolved.
//
// Trust zone: guest, in a process without privileges.
package unpack

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"strings"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/layerstream"
	"github.com/cofferproject/coffer/image/manifest"
)

// Limits bound what one layer may unpack to.
type Limits struct {
	MaxEntries int64 // names in the tar; 0: DefaultMaxEntries
	MaxBytes   int64 // of the uncompressed tar, and of all files' logical sizes; 0: no limit but the disk's
}

// DefaultMaxEntries is well above what real images have (the largest published
// ones have some hundred thousand files).
const DefaultMaxEntries = 2_000_000

// Stats say what a layer held.
type Stats struct {
	Entries int64 // records
	Bytes   int64 // of the uncompressed tar
}

// Layer reads a layer from src until io.EOF and writes its records to enc,
// Finish included. what names the layer in errors ("layer 3").
func Layer(src io.Reader, what string, diffID digest.Digest, enc *layerstream.Encoder, lim Limits) (Stats, error) {
	if lim.MaxEntries == 0 {
		lim.MaxEntries = DefaultMaxEntries
	}
	if lim.MaxBytes == 0 {
		lim.MaxBytes = math.MaxInt64
	}
	in := bufio.NewReaderSize(src, 64<<10)
	plain, done, err := decompress(in)
	if err != nil {
		return Stats{}, fmt.Errorf("%s: %w", what, err)
	}
	defer done()
	h := &hashReader{r: plain, h: diffID.NewHash(), max: lim.MaxBytes}
	p := parser{enc: enc, lim: lim, buf: make([]byte, 128<<10)}
	if err := p.tar(bufio.NewReaderSize(h, 64<<10)); err != nil {
		// The source's verdict explains more than the tar reader's stumbling over
		// what came before it, so look for it; bounded by the source's own size.
		if serr := drain(in); serr != nil {
			err = serr
		}
		return p.stats(h), fmt.Errorf("%s: %w", what, err)
	}
	// Bytes after the archive's end belong to the diffID as well, and the source
	// gives its verdict only at its end.
	if err := drain(h); err != nil {
		return p.stats(h), fmt.Errorf("%s: %w", what, err)
	}
	if err := drain(in); err != nil {
		return p.stats(h), fmt.Errorf("%s: %w", what, err)
	}
	if err := diffID.Check(what+": unpacked content (diffID)", h.h); err != nil {
		return p.stats(h), err
	}
	if err := enc.Finish(); err != nil {
		return p.stats(h), fmt.Errorf("%s: handing records to the writer: %w", what, err)
	}
	return p.stats(h), nil
}

// drain reads r to its end. A plain wrapper keeps io.Copy from using a ReadFrom
// or WriteTo that would allocate.
func drain(r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 16<<10))
	return err
}

// hashReader hashes and counts what passes.
type hashReader struct {
	r   io.Reader
	h   hash.Hash
	n   int64
	max int64
}

func (h *hashReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.h.Write(p[:n])
	if h.n += int64(n); h.n > h.max {
		return n, tooLarge(h.max)
	}
	return n, err
}

func tooLarge(limit int64) error {
	return fmt.Errorf("unpacks to more than the limit of %d bytes", limit)
}

type parser struct {
	enc     *layerstream.Encoder
	lim     Limits
	buf     []byte
	entries int64
	bytes   int64 // logical sizes of files
}

func (p *parser) stats(h *hashReader) Stats { return Stats{Entries: p.entries, Bytes: h.n} }

func (p *parser) tar(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		hdr, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading tar: %w", err)
		}
		if p.entries++; p.entries > p.lim.MaxEntries {
			return fmt.Errorf("more than %d entries", p.lim.MaxEntries)
		}
		if err := p.entry(t, hdr); err != nil {
			return fmt.Errorf("entry %.300q: %w", hdr.Name, err)
		}
	}
}

func (p *parser) entry(t *tar.Reader, hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil // comments of git archive and the like
	}
	path, err := clean(hdr.Name)
	if err != nil {
		return err
	}
	if rec, ok, err := whiteout(path); err != nil || ok {
		if err != nil || rec == nil {
			return err
		}
		return p.enc.Put(rec)
	}
	rec, err := record(path, hdr)
	if err != nil {
		return err
	}
	if rec.Type == layerstream.File {
		if rec.Size > p.lim.MaxBytes-p.bytes {
			return fmt.Errorf("declares %d bytes: %w", rec.Size, tooLarge(p.lim.MaxBytes))
		}
		p.bytes += rec.Size
	}
	if path == "" && rec.Type != layerstream.Dir {
		return fmt.Errorf("a %v in the place of the root directory", rec.Type)
	}
	if err := p.enc.Put(rec); err != nil {
		return err
	}
	if rec.Type != layerstream.File || rec.Size == 0 {
		return nil
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{p.enc}, struct{ io.Reader }{t}, p.buf)
	if err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, rec.Size, err)
	}
	if n != rec.Size {
		return fmt.Errorf("%d of %d bytes: %w", n, rec.Size, io.ErrUnexpectedEOF)
	}
	return nil
}

// clean gives name relative to the layer's root. "./" and a leading "/" mean the
// root; ".." is refused even where it would stay inside, since no tool writes it
// and every reader resolves it differently.
func clean(name string) (string, error) {
	if !strings.Contains(name, "//") && !strings.HasPrefix(name, "/") && !strings.HasSuffix(name, "/") && !strings.Contains(name, "./") && !strings.HasSuffix(name, ".") {
		return name, nil // the common case, without allocation; layerstream checks the rest
	}
	var out []string
	for c := range strings.SplitSeq(name, "/") {
		switch c {
		case "", ".":
		case "..":
			return "", errors.New("name has a \"..\" component")
		default:
			out = append(out, c)
		}
	}
	return strings.Join(out, "/"), nil
}

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// whiteout recognises the marks that stand for absence. AUFS's other
// bookkeeping entries (".wh..wh.") are skipped: ok with a nil record.
func whiteout(path string) (rec *layerstream.Record, ok bool, err error) {
	if !strings.Contains(path, whiteoutPrefix) {
		return nil, false, nil
	}
	dir, base := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, base = path[:i], path[i+1:]
	}
	for c := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(c, whiteoutMeta) {
			return nil, true, nil
		}
		if strings.HasPrefix(c, whiteoutPrefix) {
			return nil, false, fmt.Errorf("lies below whiteout %.80q", c)
		}
	}
	switch {
	case base == whiteoutOpaque:
		return &layerstream.Record{Type: layerstream.Opaque, Path: dir}, true, nil
	case strings.HasPrefix(base, whiteoutMeta):
		return nil, true, nil
	case strings.HasPrefix(base, whiteoutPrefix):
		name := base[len(whiteoutPrefix):]
		if name == "" {
			return nil, false, errors.New("whiteout without a name")
		}
		if dir != "" {
			name = dir + "/" + name
		}
		return &layerstream.Record{Type: layerstream.Whiteout, Path: name}, true, nil
	}
	return nil, false, nil
}

// record turns a tar header into a record.
func record(path string, hdr *tar.Header) (*layerstream.Record, error) {
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) >= math.MaxUint32 || int64(hdr.Gid) >= math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	r := &layerstream.Record{
		Path: path, Mode: uint16(hdr.Mode & 0o7777), UID: uint32(hdr.Uid), GID: uint32(hdr.Gid),
		MTime: hdr.ModTime.Unix(), MTimeNano: uint32(hdr.ModTime.Nanosecond()),
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		r.Type = layerstream.Dir
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		r.Type, r.Size = layerstream.File, hdr.Size
	case tar.TypeSymlink:
		r.Type, r.Link = layerstream.Symlink, hdr.Linkname
	case tar.TypeLink:
		link, err := clean(hdr.Linkname)
		if err != nil {
			return nil, fmt.Errorf("hard link to %.300q: %w", hdr.Linkname, err)
		}
		r.Type, r.Link = layerstream.HardLink, link
	case tar.TypeFifo:
		r.Type = layerstream.FIFO
	case tar.TypeChar, tar.TypeBlock:
		if r.Type = layerstream.Char; hdr.Typeflag == tar.TypeBlock {
			r.Type = layerstream.Block
		}
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return nil, fmt.Errorf("device number %d:%d is out of range", hdr.Devmajor, hdr.Devminor)
		}
		r.Major, r.Minor = uint32(hdr.Devmajor), uint32(hdr.Devminor)
	default:
		return nil, fmt.Errorf("tar entry of type %q is not supported", hdr.Typeflag)
	}
	if r.Type == layerstream.File || r.Type == layerstream.Dir {
		r.Xattrs = xattrs(hdr)
	}
	return r, nil
}

const paxXattr = "SCHILY.xattr."

// xattrs gives the attributes that an image may set, sorted by name; others
// (labels, overlayfs's own) are dropped as the other unpackers do.
func xattrs(hdr *tar.Header) []layerstream.Xattr {
	var out []layerstream.Xattr
	for k, v := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(k, paxXattr)
		if !ok || !layerstream.AllowedXattr(name) {
			continue
		}
		i := 0
		for i < len(out) && out[i].Name < name {
			i++
		}
		out = append(out, layerstream.Xattr{})
		copy(out[i+1:], out[i:])
		out[i] = layerstream.Xattr{Name: name, Value: bytes.Clone([]byte(v))}
	}
	return out
}

// GCPercent gives the collector's setting (debug.SetGCPercent) for a process that
// does nothing but parse a layer of this compression. The live heap is a few
// buffers, for which the runtime's smallest heap is enough; or one zstd window
// that is allocated once, so that a small percentage costs nothing and keeps the
// peak near what is live.
func GCPercent(c manifest.Compression) int {
	if c == manifest.Zstd {
		return 20
	}
	return 100
}
