package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
)

// layoutWriter makes or extends a directory in OCI layout. Blobs appear under
// their names whole or not at all; index.json is replaced last, so a failed run
// leaves an older image as it was.
type layoutWriter struct{ dir string }

func newLayoutWriter(dir string) (*layoutWriter, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, fmt.Errorf("writing image: %w", err)
	}
	return &layoutWriter{dir}, nil
}

// blob stores what fill writes and gives its digest and size.
func (w *layoutWriter) blob(fill func(io.Writer) error) (digest.Digest, int64, error) {
	f, err := os.CreateTemp(filepath.Join(w.dir, "blobs"), ".blob-")
	if err != nil {
		return "", 0, fmt.Errorf("writing image: %w", err)
	}
	defer os.Remove(f.Name()) // nothing is there after the rename
	h := digest.FromBytes(nil).NewHash()
	if err := fill(io.MultiWriter(f, h)); err != nil {
		return "", 0, errors.Join(err, f.Close())
	}
	st, err := f.Stat()
	if err != nil {
		return "", 0, errors.Join(fmt.Errorf("writing image: %w", err), f.Close())
	}
	if err := errors.Join(f.Chmod(0o644), f.Close()); err != nil {
		return "", 0, fmt.Errorf("writing image: %w", err)
	}
	d := digest.FromSHA256(h)
	if err := os.Rename(f.Name(), filepath.Join(w.dir, "blobs", "sha256", d.Hex())); err != nil {
		return "", 0, fmt.Errorf("writing image: %w", err)
	}
	return d, st.Size(), nil
}

func (w *layoutWriter) bytes(b []byte) (digest.Digest, error) {
	d, _, err := w.blob(func(out io.Writer) error { _, err := out.Write(b); return err })
	return d, err
}

// finish makes root the layout's image of this tag; others stay.
func (w *layoutWriter) finish(root manifest.Descriptor, tag string) error {
	index := map[string]json.RawMessage{}
	b, err := os.ReadFile(filepath.Join(w.dir, "index.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("writing image: %w", err)
	default:
		if err := json.Unmarshal(b, &index); err != nil {
			return fmt.Errorf("writing image: %s: index.json: %w", w.dir, err)
		}
	}
	var list []manifest.Descriptor
	if raw, ok := index["manifests"]; ok {
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("writing image: %s: index.json: %w", w.dir, err)
		}
	}
	kept := list[:0]
	for _, d := range list {
		if d.Annotations[annotationRefName] != tag && d.Digest != root.Digest {
			kept = append(kept, d)
		}
	}
	root.Annotations = nil
	if tag != "" {
		root.Annotations = map[string]string{annotationRefName: tag}
	}
	if index["manifests"], err = json.Marshal(append(kept, root)); err != nil {
		return err
	}
	index["schemaVersion"] = json.RawMessage("2")
	index["mediaType"] = json.RawMessage(`"` + manifest.TypeOCIIndex + `"`)
	if b, err = json.Marshal(index); err != nil {
		return err
	}
	for name, content := range map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": b} {
		p := filepath.Join(w.dir, name)
		if err := os.WriteFile(p+".new", content, 0o644); err != nil {
			return fmt.Errorf("writing image: %w", err)
		}
		if err := os.Rename(p+".new", p); err != nil {
			return fmt.Errorf("writing image: %w", err)
		}
	}
	return nil
}
