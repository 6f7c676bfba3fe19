// Package manifest reads the documents of an image: index, manifest and
// configuration, in OCI image specification 1.1 and Docker schema 2 form.
//
// Invariants: every document is at most MaxSize bytes and is checked against
// its digest by the caller *before* it is parsed here; counts, descriptors and
// media types are bounded and checked; a document that could be read both as
// index and as manifest is refused, so that everybody reads the same image.
//
// Trust zone: shared by guest and owner.
package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/image/digest"
)

// Bounds on what is accepted.
const (
	MaxSize       = 4 << 20 // bytes of a document, as registries and containerd have it
	MaxLayers     = 500     // overlayfs stacks no more
	MaxManifests  = 1000    // of an index
	MaxLayerBytes = 1 << 40 // a blob's declared size
)

// Media types of documents.
const (
	TypeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	TypeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	TypeOCIConfig      = "application/vnd.oci.image.config.v1+json"
	TypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	TypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	TypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// Accept lists the document types a registry may answer with.
var Accept = []string{TypeOCIIndex, TypeOCIManifest, TypeDockerList, TypeDockerManifest}

// Descriptor points at content by digest and size.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *Platform         `json:"platform,omitempty"`
}

// Manifest is one platform's image.
type Manifest struct {
	MediaType string
	Config    Descriptor
	Layers    []Descriptor // at least one
}

// Index lists manifests, usually one per platform.
type Index struct {
	MediaType string
	Manifests []Descriptor
}

// Document is what a registry gives for a reference: exactly one member is set.
type Document struct {
	Index    *Index
	Manifest *Manifest
}

type wireDocument struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *Descriptor       `json:"config"`
	Layers        []Descriptor      `json:"layers"`
	Manifests     []Descriptor      `json:"manifests"`
	FSLayers      []json.RawMessage `json:"fsLayers"`
	History       json.RawMessage   `json:"history"`
}

// Parse reads an index or manifest. contentType is the registry's Content-Type
// ("" when there is none, as on disk); where the document states a media type
// of its own, that one decides and must be of the same kind.
func Parse(b []byte, contentType string) (*Document, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("image manifest of %d bytes: more than %d", len(b), MaxSize)
	}
	var w wireDocument
	if err := json.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("parsing image manifest: %w", err)
	}
	if len(w.FSLayers) > 0 || w.SchemaVersion == 1 {
		return nil, errors.New("image manifest: Docker schema 1 is not supported; push the image again with a current tool")
	}
	if w.SchemaVersion != 2 {
		return nil, fmt.Errorf("image manifest: schemaVersion %d, expected 2", w.SchemaVersion)
	}
	contentType, _, _ = strings.Cut(contentType, ";")
	contentType = strings.TrimSpace(contentType)
	mt := w.MediaType
	if mt == "" && isDocumentType(contentType) {
		mt = contentType
	}
	if mt == "" { // OCI lets both be absent; then the members tell
		if mt = TypeOCIManifest; w.Manifests != nil {
			mt = TypeOCIIndex
		}
	}
	if isDocumentType(contentType) && isIndexType(contentType) != isIndexType(mt) {
		return nil, fmt.Errorf("image manifest: registry says %s, the document says %s", contentType, mt)
	}
	switch {
	case !isDocumentType(mt):
		return nil, fmt.Errorf("image manifest: media type %.100q is not supported", mt)
	case isIndexType(mt):
		return parseIndex(mt, &w)
	}
	return parseManifest(mt, &w)
}

func parseIndex(mt string, w *wireDocument) (*Document, error) {
	if w.Config != nil || w.Layers != nil {
		return nil, errors.New("image index has layers or a config: it could be read as a manifest too")
	}
	if n := len(w.Manifests); n == 0 || n > MaxManifests {
		return nil, fmt.Errorf("image index lists %d manifests: 1 to %d", n, MaxManifests)
	}
	for i := range w.Manifests {
		if err := w.Manifests[i].check(); err != nil {
			return nil, fmt.Errorf("image index: manifest %d: %w", i, err)
		}
	}
	return &Document{Index: &Index{MediaType: mt, Manifests: w.Manifests}}, nil
}

func parseManifest(mt string, w *wireDocument) (*Document, error) {
	if w.Manifests != nil {
		return nil, errors.New("image manifest has a list of manifests: it could be read as an index too")
	}
	if w.Config == nil {
		return nil, errors.New("image manifest has no config")
	}
	if err := w.Config.check(); err != nil {
		return nil, fmt.Errorf("image manifest: config: %w", err)
	}
	switch w.Config.MediaType {
	case TypeOCIConfig, TypeDockerConfig:
	default:
		return nil, fmt.Errorf("image manifest: config of type %.100q: this is an artifact, not a container image", w.Config.MediaType)
	}
	if w.Config.Size > MaxSize {
		return nil, fmt.Errorf("image manifest: config of %d bytes: more than %d", w.Config.Size, MaxSize)
	}
	// An image without layers would leave the container's root to whatever the
	// mount code makes of an empty list; it can run nothing anyway.
	if n := len(w.Layers); n == 0 || n > MaxLayers {
		return nil, fmt.Errorf("image manifest lists %d layers: 1 to %d", n, MaxLayers)
	}
	for i := range w.Layers {
		if err := w.Layers[i].check(); err != nil {
			return nil, fmt.Errorf("image manifest: layer %d: %w", i, err)
		}
		if _, err := ParseLayerType(w.Layers[i].MediaType); err != nil {
			return nil, fmt.Errorf("image manifest: layer %d: %w", i, err)
		}
	}
	return &Document{Manifest: &Manifest{MediaType: mt, Config: *w.Config, Layers: w.Layers}}, nil
}

func (d *Descriptor) check() error {
	if d.Digest == "" {
		return errors.New("no digest")
	}
	if d.Size < 0 || d.Size > MaxLayerBytes {
		return fmt.Errorf("size %d", d.Size)
	}
	if len(d.MediaType) > 255 {
		return fmt.Errorf("media type of %d bytes", len(d.MediaType))
	}
	return nil
}

func isIndexType(mt string) bool { return mt == TypeOCIIndex || mt == TypeDockerList }

func isDocumentType(mt string) bool {
	return isIndexType(mt) || mt == TypeOCIManifest || mt == TypeDockerManifest
}
