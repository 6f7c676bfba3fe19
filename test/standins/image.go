package main

import (
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// refName is the annotation that names an image in a layout's index.
const refName = "org.opencontainers.image.ref.name"

// path is the image in the output folder: registry, repository, tag.
func (s *standin) path() string {
	return filepath.Join(s.registry, filepath.FromSlash(s.repo), s.tag)
}

func (s *standin) ref() string { return s.registry + "/" + s.repo + ":" + s.tag }

// write stores the image as an OCI layout in dir: one index, one manifest for
// each architecture, as the real images are published.
func (s *standin) write(dir string, build func(arch string) ([]*layer, error)) error {
	indexType := types.OCIImageIndex
	if s.docker {
		indexType = types.DockerManifestList
	}
	index := mutate.IndexMediaType(empty.Index, indexType)
	for _, arch := range s.arches() {
		layers, err := build(arch)
		if err != nil {
			return err
		}
		img, err := s.image(arch, layers)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return l.AppendIndex(index, layout.WithAnnotations(map[string]string{refName: s.ref()}))
}

func (s *standin) arches() []string {
	if s.multiArch {
		return []string{"amd64", "arm64"}
	}
	return []string{"amd64"}
}

func (s *standin) image(arch string, layers []*layer) (v1.Image, error) {
	media, config := types.OCIManifestSchema1, types.OCIConfigJSON
	if s.docker {
		media, config = types.DockerManifestSchema2, types.DockerConfigJSON
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, media), config)
	for _, l := range layers {
		var err error
		img, err = mutate.Append(img, mutate.Addendum{
			Layer: l, MediaType: l.media,
			History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "coffer stand-in"},
		})
		if err != nil {
			return nil, fmt.Errorf("appending a layer: %w", err)
		}
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.Architecture, cf.OS, cf.Created, cf.Config = arch, "linux", v1.Time{Time: epoch}, s.config
	return mutate.ConfigFile(img, cf)
}
