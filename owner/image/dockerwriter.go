package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/cofferproject/coffer/image/manifest"
)

// writeDockerArchive packs one image of a layout in docker save's form, with
// uncompressed layers: every docker can load those, and their digest is the
// diffID.
func writeDockerArchive(ctx context.Context, l Location, dir string, root manifest.Descriptor) error {
	f, err := openDir(dir)
	if err != nil {
		return err
	}
	src := &layoutSource{files: f, l: l}
	defer src.Close()
	doc, err := src.Document(ctx, root)
	if err != nil {
		return err
	}
	parsed, err := manifest.Parse(doc.Bytes, doc.MediaType)
	if err != nil {
		return err
	}
	if parsed.Manifest == nil {
		return errors.New("a docker-archive holds one platform's image: choose it with --platform")
	}
	cfg, err := src.Document(ctx, parsed.Manifest.Config)
	if err != nil {
		return err
	}
	return replaceFile(l.Path, func(f *os.File) error {
		return packDocker(ctx, tar.NewWriter(f), src, l.Tag, parsed.Manifest, cfg)
	})
}

func packDocker(ctx context.Context, w *tar.Writer, src Source, tag string, m *manifest.Manifest, cfgDoc *Document) error {
	cfg, err := manifest.ParseConfig(cfgDoc.Bytes, m)
	if err != nil {
		return err
	}
	e := archiveEntry{Config: cfgDoc.Digest.Hex() + ".json", RepoTags: []string{}, Layers: []string{}}
	if tag != "" {
		e.RepoTags = append(e.RepoTags, tag)
	}
	for i, d := range m.Layers {
		if lt, err := manifest.ParseLayerType(d.MediaType); err != nil || lt.Encrypted {
			return errors.Join(err, fmt.Errorf("layer %d is encrypted: a docker-archive cannot hold it", i+1))
		}
		name := cfg.RootFS.DiffIDs[i].Hex() + ".tar"
		if !slices.Contains(e.Layers, name) {
			if err := packLayer(ctx, w, src, d, name); err != nil {
				return fmt.Errorf("layer %d: %w", i+1, err)
			}
		}
		e.Layers = append(e.Layers, name)
	}
	list, err := json.Marshal([]archiveEntry{e})
	if err != nil {
		return err
	}
	if err := packBytes(w, e.Config, cfgDoc.Bytes); err != nil {
		return err
	}
	if err := packBytes(w, "manifest.json", list); err != nil {
		return err
	}
	return w.Close()
}

func packBytes(w *tar.Writer, name string, b []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(b))}); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

// packLayer writes a layer unpacked. A tar header comes before the content and
// states its size, so a packed layer is read twice.
func packLayer(ctx context.Context, w *tar.Writer, src Source, d manifest.Descriptor, name string) error {
	pass := func(out io.Writer) (int64, error) {
		rc, err := src.Blob(ctx, d)
		if err != nil {
			return 0, err
		}
		plain, _, err := unpacked(rc)
		if err != nil {
			return 0, err
		}
		defer plain.Close()
		return io.Copy(struct{ io.Writer }{out}, struct{ io.Reader }{plain})
	}
	size, err := pass(io.Discard)
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err = pass(w)
	return err
}
