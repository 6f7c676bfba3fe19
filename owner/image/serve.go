package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
)

// Server is a read-only registry for images on disk, so that a guest can pull
// them like any other. Layers are read from their files as they are asked for.
type Server struct {
	handler http.Handler
	blobs   *servedBlobs
	srcs    []Source
}

// NewServer gives a registry without images.
func NewServer() *Server {
	b := &servedBlobs{blobs: map[string]servedBlob{}}
	return &Server{blobs: b, handler: registry.New(registry.WithBlobHandler(b), registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))}
}

// Add puts the image at l into repository, such as "local/web", as tag and gives
// its digest.
func (s *Server) Add(ctx context.Context, repository, tag string, l Location) (digest.Digest, error) {
	src, err := Open(l, &Access{})
	if err != nil {
		return "", err
	}
	s.srcs = append(s.srcs, src)
	root, err := src.Root(ctx)
	if err != nil {
		return "", err
	}
	if err := s.add(ctx, repository, src, root); err != nil {
		return "", fmt.Errorf("image %s: %w", l, err)
	}
	for _, name := range []string{tag, string(root.Digest)} {
		if err := s.put(repository, name, root); err != nil {
			return "", fmt.Errorf("image %s: %w", l, err)
		}
	}
	return root.Digest, nil
}

func (s *Server) add(ctx context.Context, repo string, src Source, doc *Document) error {
	parsed, err := manifest.Parse(doc.Bytes, doc.MediaType)
	if err != nil {
		return err
	}
	if parsed.Manifest != nil {
		s.blobs.add(repo, src, parsed.Manifest.Config)
		for _, l := range parsed.Manifest.Layers {
			s.blobs.add(repo, src, l)
		}
		return nil
	}
	for _, d := range parsed.Index.Manifests {
		child, err := src.Document(ctx, d)
		if err != nil {
			return err
		}
		if d.Platform == nil || d.Platform.OS != "unknown" {
			if err := s.add(ctx, repo, src, child); err != nil {
				return err
			}
		}
		if err := s.put(repo, string(d.Digest), child); err != nil {
			return err
		}
	}
	return nil
}

// put stores a document through the registry's own API.
func (s *Server) put(repo, name string, d *Document) error {
	req, err := http.NewRequest(http.MethodPut, "http://local/v2/"+repo+"/manifests/"+name, bytes.NewReader(d.Bytes))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", d.MediaType)
	w := &answer{header: http.Header{}}
	s.handler.ServeHTTP(w, req)
	if w.code/100 != 2 {
		return fmt.Errorf("storing document %s: %s", name, strings.TrimSpace(w.body.String()))
	}
	return nil
}

// answer keeps a handler's response.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(code int) { a.code = code }

func (a *answer) Write(b []byte) (int, error) {
	if a.code == 0 {
		a.code = http.StatusOK
	}
	return a.body.Write(b)
}

// ServeHTTP answers pulls; it takes nothing.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "read-only", http.StatusMethodNotAllowed)
		return
	}
	s.handler.ServeHTTP(w, r)
}

// Close closes the images' files. Stop serving first.
func (s *Server) Close() error {
	var errs []error
	for _, src := range s.srcs {
		errs = append(errs, src.Close())
	}
	return errors.Join(errs...)
}

type servedBlob struct {
	src Source
	d   manifest.Descriptor
}

// servedBlobs is go-containerregistry's blob store over our sources.
type servedBlobs struct {
	mu    sync.Mutex
	blobs map[string]servedBlob
}

func (b *servedBlobs) add(repo string, src Source, d manifest.Descriptor) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blobs[repo+"@"+string(d.Digest)] = servedBlob{src, d}
}

func (b *servedBlobs) find(repo string, h v1.Hash) (servedBlob, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.blobs[repo+"@"+h.String()]
	return s, ok
}

// Stat gives a blob's size.
func (b *servedBlobs) Stat(_ context.Context, repo string, h v1.Hash) (int64, error) {
	s, ok := b.find(repo, h)
	if !ok {
		return 0, registry.ErrNotFound
	}
	return s.d.Size, nil
}

// Get opens a blob.
func (b *servedBlobs) Get(ctx context.Context, repo string, h v1.Hash) (io.ReadCloser, error) {
	s, ok := b.find(repo, h)
	if !ok {
		return nil, registry.ErrNotFound
	}
	if s.d.MediaType == manifest.TypeOCIConfig || s.d.MediaType == manifest.TypeDockerConfig {
		doc, err := s.src.Document(ctx, s.d)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(doc.Bytes)), nil
	}
	return s.src.Blob(ctx, s.d)
}
