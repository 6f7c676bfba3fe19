package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cofferproject/coffer/image/manifest"
)

const annotationRefName = "org.opencontainers.image.ref.name"

// layoutSource reads the OCI image layout (image-spec, image-layout.md).
type layoutSource struct {
	files
	l Location
}

func (s *layoutSource) Root(ctx context.Context) (*Document, error) {
	b, err := readSmall(s.files, "index.json", manifest.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", s.l, err)
	}
	var idx struct {
		Manifests []manifest.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(b, &idx); err != nil {
		return nil, fmt.Errorf("image %s: index.json: %w", s.l, err)
	}
	d, err := pick(idx.Manifests, s.l.Tag)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", s.l, err)
	}
	return s.Document(ctx, *d)
}

// pick finds the image that a tag names; without a tag there must be only one.
func pick(list []manifest.Descriptor, tag string) (*manifest.Descriptor, error) {
	var found *manifest.Descriptor
	var names []string
	for i := range list {
		name := list[i].Annotations[annotationRefName]
		names = append(names, name)
		if tag == "" || name == tag {
			if found != nil {
				return nil, fmt.Errorf("holds several images (%.300q): name one after a colon", append(names, ""))
			}
			found = &list[i]
		}
	}
	switch {
	case found == nil && tag != "":
		return nil, fmt.Errorf("has no image %q, only %.300q", tag, names)
	case found == nil:
		return nil, errors.New("holds no image")
	case found.Digest == "":
		return nil, errors.New("index.json: descriptor without digest")
	}
	return found, nil
}

func (s *layoutSource) Document(ctx context.Context, d manifest.Descriptor) (*Document, error) {
	if d.Size > manifest.MaxSize {
		return nil, fmt.Errorf("document %s of %d bytes: more than %d", d.Digest, d.Size, manifest.MaxSize)
	}
	rc, err := s.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", s.l, err)
	}
	return &Document{Descriptor: d, Bytes: b}, nil
}

func (s *layoutSource) Blob(_ context.Context, d manifest.Descriptor) (io.ReadCloser, error) {
	rc, size, err := s.open(blobPath(d))
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", s.l, err)
	}
	if size != d.Size {
		return nil, errors.Join(fmt.Errorf("image %s: blob %s has %d bytes, its descriptor declares %d", s.l, d.Digest, size, d.Size), rc.Close())
	}
	return newVerified(rc, d, "blob "+d.Digest.String()), nil
}

func blobPath(d manifest.Descriptor) string {
	return "blobs/" + d.Digest.Algorithm() + "/" + d.Digest.Hex()
}
