package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
)

// dockerArchive reads what docker save and podman save write. Its layers are
// given as uncompressed tar, whose digest is the diffID; so the image's manifest
// is made here.
type dockerArchive struct {
	files
	l      Location
	root   *Document
	config *Document
	layers map[digest.Digest]string // member by diffID
}

func openDockerArchive(l Location) (Source, error) {
	f, err := openTar(l.Path)
	if err != nil {
		return nil, err
	}
	s := &dockerArchive{files: f, l: l, layers: map[digest.Digest]string{}}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("image %s: %w", l, err), f.Close())
	}
	return s, nil
}

type archiveEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (s *dockerArchive) load() error {
	e, err := s.entry()
	if err != nil {
		return err
	}
	cfg, err := readSmall(s.files, e.Config, manifest.MaxSize)
	if err != nil {
		return err
	}
	s.config = &Document{Bytes: cfg, Descriptor: manifest.Descriptor{MediaType: manifest.TypeOCIConfig, Digest: digest.FromBytes(cfg), Size: int64(len(cfg))}}
	var c manifest.Config
	if err := json.Unmarshal(cfg, &c); err != nil {
		return fmt.Errorf("image config: %w", err)
	}
	if len(c.RootFS.DiffIDs) != len(e.Layers) {
		return fmt.Errorf("config lists %d diff_ids, the archive %d layers", len(c.RootFS.DiffIDs), len(e.Layers))
	}
	m := struct {
		SchemaVersion int                   `json:"schemaVersion"`
		MediaType     string                `json:"mediaType"`
		Config        manifest.Descriptor   `json:"config"`
		Layers        []manifest.Descriptor `json:"layers"`
	}{2, manifest.TypeOCIManifest, s.config.Descriptor, nil}
	for i, name := range e.Layers {
		id := c.RootFS.DiffIDs[i]
		size, err := s.plainSize(name)
		if err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
		s.layers[id] = name
		m.Layers = append(m.Layers, manifest.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: id, Size: size})
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	s.root, err = newDocument(b, "")
	return err
}

func (s *dockerArchive) entry() (*archiveEntry, error) {
	b, err := readSmall(s.files, "manifest.json", manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	var list []archiveEntry
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	if s.l.Tag == "" {
		if len(list) != 1 {
			return nil, fmt.Errorf("holds %d images: name one after a colon", len(list))
		}
		return &list[0], nil
	}
	i := slices.IndexFunc(list, func(e archiveEntry) bool { return slices.Contains(e.RepoTags, s.l.Tag) })
	if i < 0 {
		return nil, fmt.Errorf("has no image %q", s.l.Tag)
	}
	return &list[i], nil
}

// plainSize is a layer's uncompressed size: the member's own, unless it is gzip.
func (s *dockerArchive) plainSize(name string) (int64, error) {
	rc, size, err := s.open(name)
	if err != nil {
		return 0, err
	}
	plain, packed, err := unpacked(rc)
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	if !packed {
		return size, nil
	}
	return io.Copy(io.Discard, plain)
}

func (s *dockerArchive) Root(context.Context) (*Document, error) { return s.root, nil }

func (s *dockerArchive) Document(_ context.Context, d manifest.Descriptor) (*Document, error) {
	for _, have := range []*Document{s.root, s.config} {
		if have.Digest == d.Digest {
			return have, nil
		}
	}
	return nil, fmt.Errorf("image %s: no document %s", s.l, d.Digest)
}

func (s *dockerArchive) Blob(_ context.Context, d manifest.Descriptor) (io.ReadCloser, error) {
	name, ok := s.layers[d.Digest]
	if !ok {
		return nil, fmt.Errorf("image %s: no layer %s", s.l, d.Digest)
	}
	rc, _, err := s.open(name)
	if err != nil {
		return nil, err
	}
	plain, _, err := unpacked(rc)
	if err != nil {
		return nil, err
	}
	return newVerified(plain, d, "layer "+d.Digest.String()), nil
}
