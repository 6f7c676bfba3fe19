package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// maxManifest bounds a manifest that is pushed or loaded.
const maxManifest = 4 << 20

// blobs serves the layouts' blobs from where they lie, and what was pushed from
// the writable folder. It does not tell repositories apart, as no registry must
// when the digest is known.
type blobs struct {
	files  map[string]string // digest to file
	pushed registry.BlobHandler
}

// Get implements registry.BlobHandler.
func (b *blobs) Get(ctx context.Context, repo string, h v1.Hash) (io.ReadCloser, error) {
	if f, ok := b.files[h.String()]; ok {
		return os.Open(f)
	}
	if b.pushed == nil {
		return nil, registry.ErrNotFound
	}
	return b.pushed.Get(ctx, repo, h)
}

// Stat implements registry.BlobStatHandler.
func (b *blobs) Stat(ctx context.Context, repo string, h v1.Hash) (int64, error) {
	if f, ok := b.files[h.String()]; ok {
		st, err := os.Stat(f)
		if err != nil {
			return 0, err
		}
		return st.Size(), nil
	}
	if s, ok := b.pushed.(registry.BlobStatHandler); ok {
		return s.Stat(ctx, repo, h)
	}
	return 0, registry.ErrNotFound
}

// Put implements registry.BlobPutHandler.
func (b *blobs) Put(ctx context.Context, repo string, h v1.Hash, rc io.ReadCloser) error {
	if p, ok := b.pushed.(registry.BlobPutHandler); ok {
		return p.Put(ctx, repo, h, rc)
	}
	return errors.Join(errors.New("this mirror takes no pushes"), rc.Close())
}

// load offers every layout below root through reg and gives the registries'
// names.
func (b *blobs) load(root string, reg http.Handler) ([]string, error) {
	var names []string
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != "oci-layout" {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		parts := strings.Split(filepath.ToSlash(rel), "/")
		if len(parts) < 3 {
			return fmt.Errorf("%s: not <registry>/<repository>/<tag>", rel)
		}
		names = append(names, parts[0])
		repo, tag := strings.Join(parts[:len(parts)-1], "/"), parts[len(parts)-1]
		if err := b.layout(filepath.Dir(p), repo, tag, reg); err != nil {
			return fmt.Errorf("%s: %w", rel, err)
		}
		return nil
	})
	return names, err
}

func (b *blobs) layout(dir, repo, tag string, reg http.Handler) error {
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return err
	}
	if len(index.Manifests) != 1 {
		return fmt.Errorf("%d manifests in index.json, want 1", len(index.Manifests))
	}
	return b.manifest(dir, repo, tag, index.Manifests[0], reg)
}

// manifest puts a manifest and, first, everything it names.
func (b *blobs) manifest(dir, repo, ref string, d v1.Descriptor, reg http.Handler) error {
	raw, err := os.ReadFile(blobFile(dir, d.Digest))
	if err != nil {
		return err
	}
	var m struct {
		Manifests []v1.Descriptor `json:"manifests"`
		Config    *v1.Descriptor  `json:"config"`
		Layers    []v1.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	for _, c := range m.Manifests {
		if err := b.manifest(dir, repo, c.Digest.String(), c, reg); err != nil {
			return err
		}
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, l := range m.Layers {
		b.files[l.Digest.String()] = blobFile(dir, l.Digest)
	}
	return put(reg, repo, ref, d.MediaType, raw)
}

func blobFile(dir string, h v1.Hash) string {
	return filepath.Join(dir, "blobs", h.Algorithm, h.Hex)
}

func put(reg http.Handler, repo, ref string, media types.MediaType, raw []byte) error {
	req := httptest.NewRequest(http.MethodPut, "/v2/"+repo+"/manifests/"+ref, bytes.NewReader(raw))
	req.Header.Set("Content-Type", string(media))
	w := httptest.NewRecorder()
	reg.ServeHTTP(w, req)
	if w.Code/100 != 2 {
		return fmt.Errorf("putting manifest %s: %d %s", ref, w.Code, w.Body)
	}
	return nil
}

// guard refuses pushes where none are allowed and otherwise keeps a copy of
// each pushed manifest, so that the folder holds all that the registry was told.
func guard(next http.Handler, writable string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		read := r.Method == http.MethodGet || r.Method == http.MethodHead
		if !read && writable == "" {
			http.Error(w, "this mirror takes no pushes", http.StatusMethodNotAllowed)
			return
		}
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
			raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
			if err == nil {
				h, _, _ := v1.SHA256(bytes.NewReader(raw))
				err = os.WriteFile(filepath.Join(writable, "manifest-"+h.Hex+".json"), raw, 0o600)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(raw))
		}
		next.ServeHTTP(w, r)
	})
}
