package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/registry"
)

// Access says how registries are reached.
type Access struct {
	Conf  registry.Conf
	Roots []string // PEM
	Auth  []byte   // containers-auth.json(5)
}

func (a *Access) config() registry.Config {
	return registry.Config{Conf: a.Conf, ExtraRoots: a.Roots, Auth: a.Auth}
}

// Document is an index, manifest or configuration with its descriptor.
type Document struct {
	manifest.Descriptor
	Bytes []byte
}

// Source is an image, or several for different platforms, that can be read.
// Everything it gives is checked against its digest; a blob's reader reports a
// wrong one at its end instead of io.EOF.
type Source interface {
	Root(ctx context.Context) (*Document, error)
	Document(ctx context.Context, d manifest.Descriptor) (*Document, error)
	Blob(ctx context.Context, d manifest.Descriptor) (io.ReadCloser, error)
	Close() error
}

// Open opens a location for reading.
func Open(l Location, a *Access) (Source, error) {
	switch l.Kind {
	case Registry:
		c, err := registry.New(a.config())
		if err != nil {
			return nil, err
		}
		return &registrySource{c: c, l: l}, nil
	case OCI:
		f, err := openDir(l.Path)
		if err != nil {
			return nil, err
		}
		return &layoutSource{files: f, l: l}, nil
	case OCIArchive:
		f, err := openTar(l.Path)
		if err != nil {
			return nil, err
		}
		return &layoutSource{files: f, l: l}, nil
	case DockerArchive:
		return openDockerArchive(l)
	}
	return nil, fmt.Errorf("image location of kind %q", l.Kind)
}

type registrySource struct {
	c *registry.Client
	l Location
}

func (s *registrySource) Root(ctx context.Context) (*Document, error) {
	b, ctype, err := s.c.Document(ctx, s.l.Ref)
	if err != nil {
		return nil, err
	}
	return newDocument(b, ctype)
}

func (s *registrySource) Document(ctx context.Context, d manifest.Descriptor) (*Document, error) {
	switch d.MediaType {
	case manifest.TypeOCIConfig, manifest.TypeDockerConfig:
		b, err := s.c.Small(ctx, s.l.Ref, d, "image config")
		return &Document{Descriptor: d, Bytes: b}, err
	}
	b, _, err := s.c.Document(ctx, s.l.Ref.WithDigest(d.Digest))
	return &Document{Descriptor: d, Bytes: b}, err
}

func (s *registrySource) Blob(ctx context.Context, d manifest.Descriptor) (io.ReadCloser, error) {
	return s.c.Blob(ctx, s.l.Ref, d, "layer")
}

func (s *registrySource) Close() error { return nil }

// newDocument describes a top document by its bytes and what its kind says.
func newDocument(b []byte, ctype string) (*Document, error) {
	doc, err := manifest.Parse(b, ctype)
	if err != nil {
		return nil, err
	}
	d := &Document{Bytes: b, Descriptor: manifest.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}}
	if d.MediaType = manifest.TypeOCIManifest; doc.Index != nil {
		d.MediaType = doc.Index.MediaType
	} else {
		d.MediaType = doc.Manifest.MediaType
	}
	return d, nil
}

// verified checks size and digest of what passes, at its end.
type verified struct {
	io.Closer
	r    io.Reader
	what string
	d    manifest.Descriptor
	h    interface {
		io.Writer
		Sum([]byte) []byte
	}
	check func() error
	n     int64
}

func newVerified(rc io.ReadCloser, d manifest.Descriptor, what string) io.ReadCloser {
	h := d.Digest.NewHash()
	return &verified{Closer: rc, r: rc, what: what, d: d, h: h, check: func() error { return d.Digest.Check(what, h) }}
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	_, _ = v.h.Write(p[:n])
	if v.n += int64(n); v.n > v.d.Size {
		return n, fmt.Errorf("%s is longer than the %d bytes its descriptor declares", v.what, v.d.Size)
	}
	if errors.Is(err, io.EOF) {
		if v.n != v.d.Size {
			return n, fmt.Errorf("%s has %d bytes, its descriptor declares %d", v.what, v.n, v.d.Size)
		}
		if cerr := v.check(); cerr != nil {
			return n, cerr
		}
	}
	return n, err
}
