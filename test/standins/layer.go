package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// epoch is the time stamp of everything in the stand-ins: the same inputs give
// the same bytes.
var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// layer is one layer in memory; it implements v1.Layer.
type layer struct {
	digest, diffID v1.Hash
	media          types.MediaType
	compressed     []byte
	plain          []byte
}

func (l *layer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.diffID, nil }
func (l *layer) Size() (int64, error)                 { return int64(len(l.compressed)), nil }
func (l *layer) MediaType() (types.MediaType, error)  { return l.media, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return nopCloser(l.compressed), nil }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return nopCloser(l.plain), nil }
func nopCloser(b []byte) io.ReadCloser                { return io.NopCloser(bytes.NewReader(b)) }

// newLayer compresses a tar archive as its media type says.
func newLayer(plain []byte, media types.MediaType) (*layer, error) {
	var err error
	var out bytes.Buffer
	var w io.WriteCloser
	switch media {
	case types.OCIUncompressedLayer:
		out.Write(plain)
	case types.OCILayerZStd:
		w, err = zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	case types.OCILayer, types.DockerLayer:
		w, err = gzip.NewWriterLevel(&out, gzip.BestCompression)
	default:
		err = fmt.Errorf("no compression for %s", media)
	}
	if err != nil {
		return nil, err
	}
	if w != nil {
		_, err = w.Write(plain)
		if err = errors.Join(err, w.Close()); err != nil {
			return nil, err
		}
	}
	l := &layer{media: media, compressed: out.Bytes(), plain: plain}
	if l.digest, _, err = v1.SHA256(bytes.NewReader(l.compressed)); err != nil {
		return nil, err
	}
	l.diffID, _, err = v1.SHA256(bytes.NewReader(plain))
	return l, err
}

// tar writes the tree in the order of its paths, so that folders come before
// what is in them; hard links come last, after what they point to.
func (t tree) tar() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, hard := range []bool{false, true} {
		for _, p := range t.paths() {
			if t[p].hard != hard {
				continue
			}
			if err := t[p].write(w, p); err != nil {
				return nil, fmt.Errorf("%s: %w", p, err)
			}
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

func (n *node) write(w *tar.Writer, p string) error {
	h := &tar.Header{
		Name: p, Mode: int64(n.mode.Perm()), Uid: n.uid, Gid: n.gid, ModTime: epoch, Format: tar.FormatPAX,
	}
	if n.mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	switch {
	case n.hard:
		h.Typeflag, h.Linkname = tar.TypeLink, n.link
	case n.mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, p+"/"
	case n.mode.Type() == fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.link
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(n.data))
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(n.data)
	return err
}
