package image

import (
	"context"
	"fmt"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
)

// Info is what Inspect finds.
type Info struct {
	Image     string          `json:"image"`
	Digest    digest.Digest   `json:"digest"`
	MediaType string          `json:"media_type"`
	Manifests []ManifestState `json:"manifests"`
}

// ManifestState is one platform's image.
type ManifestState struct {
	Platform string                   `json:"platform"`
	Digest   digest.Digest            `json:"digest"`
	Config   digest.Digest            `json:"config"`
	Process  manifest.ContainerConfig `json:"process"`
	Layers   []LayerState             `json:"layers"`
}

// LayerState is one layer.
type LayerState struct {
	Digest    digest.Digest `json:"digest"`
	DiffID    digest.Digest `json:"diff_id"`
	MediaType string        `json:"media_type"`
	Size      int64         `json:"size"`
	Encrypted bool          `json:"encrypted"`
	KeyIDs    []string      `json:"key_ids,omitempty"`
}

// Inspect reads an image's documents, no layer.
func Inspect(ctx context.Context, l Location, a *Access) (*Info, error) {
	src, err := Open(l, a)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	root, err := src.Root(ctx)
	if err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(root.Bytes, root.MediaType)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", l, err)
	}
	info := &Info{Image: l.String(), Digest: root.Digest, MediaType: root.MediaType}
	add := func(d digest.Digest, m *manifest.Manifest) error {
		cfgDoc, err := src.Document(ctx, m.Config)
		if err != nil {
			return err
		}
		cfg, err := manifest.ParseConfig(cfgDoc.Bytes, m)
		if err != nil {
			return err
		}
		st, err := manifestState(d, m, cfg)
		if err == nil {
			info.Manifests = append(info.Manifests, *st)
		}
		return err
	}
	if doc.Manifest != nil {
		return info, add(root.Digest, doc.Manifest)
	}
	for _, d := range doc.Index.Manifests {
		if isAttachment(d) {
			continue
		}
		child, err := src.Document(ctx, d)
		if err != nil {
			return nil, err
		}
		c, err := manifest.Parse(child.Bytes, d.MediaType)
		if err != nil {
			return nil, fmt.Errorf("image %s: manifest %s: %w", l, d.Digest, err)
		}
		if c.Manifest == nil {
			continue
		}
		if err := add(d.Digest, c.Manifest); err != nil {
			return nil, err
		}
	}
	return info, nil
}

func manifestState(d digest.Digest, m *manifest.Manifest, cfg *manifest.Config) (*ManifestState, error) {
	s := &ManifestState{Platform: cfg.Platform().String(), Digest: d, Config: m.Config.Digest, Process: cfg.Config}
	for i, l := range m.Layers {
		lt, err := manifest.ParseLayerType(l.MediaType)
		if err != nil {
			return nil, err
		}
		st := LayerState{Digest: l.Digest, DiffID: cfg.RootFS.DiffIDs[i], MediaType: l.MediaType, Size: l.Size, Encrypted: lt.Encrypted}
		if lt.Encrypted {
			// Other recipients than ours are no reason not to show the layer.
			st.KeyIDs, _ = keyIDs(l.Annotations)
		}
		s.Layers = append(s.Layers, st)
	}
	return s, nil
}
