// Package unpacker brings images into the guest: by the digest that the pod
// policy names, verified, decrypted, unpacked into one directory for each layer.
//
// Three processes share the work (design.md section 2). The *parser* speaks to
// the registry, decrypts, decompresses and reads the tar; it has no privileges,
// its own namespaces and root, a memory limit and the key of the layer that it works
// at, of one image in its life: whoever could take it over with one of the image's
// layers could with each. It hands a small fixed record stream (image/layerstream) to
// the *writer*, one for each layer, which is shut in the layer's directory, without
// network: a directory that is moved away under a process's root lets it out. The
// *coordinator* (Service, in the agent's process) parses nothing but manifest and
// config, and those only after their digests were found right.
//
// Invariants: a layer's directory appears under its name only after blob digest,
// HMAC and diffID were verified and the writer has finished; a layer is unpacked
// once for all images of the guest, and repeated layers of one image keep their
// places; nothing on disk is trusted from before the process began; one image's
// layers are found by content, but every Pull verifies the image it names.
//
// Trust zone: guest.
package unpacker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/reference"
	"github.com/cofferproject/coffer/image/registry"
	"github.com/cofferproject/coffer/image/unpack"
)

// Options are what a Service works with.
type Options struct {
	Root  string  // the store: a directory of ours alone, best a tmpfs by MountStore
	Start Starter // WithSupervisor in a guest
	// Warm says that Warm will be called.
	Warm bool
	// Workers is how many layers are unpacked at once in the whole guest; 0: 3.
	Workers int
	// Limits bound one layer; the zero value leaves size to the store's.
	Limits unpack.Limits
	// ResolvConf and Hosts are copied into the parser's root, if they exist.
	ResolvConf, Hosts string
	Platform          manifest.Platform // zero: linux and this binary's architecture
	// Clock gives the time for certificates and whether it is only a floor; nil:
	// the system's clock, which a guest must not believe.
	Clock func() (now time.Time, onlyFloor bool)
}

// DefaultWorkers is the published default of layers at once.
const DefaultWorkers = 3

// Service pulls images for one guest.
type Service struct {
	opt Options
	sem chan struct{}

	mu     sync.Mutex
	next   int
	store  string // of staging and layers: Options.Root, or MoveTo's
	images map[string]*Image
	layers map[layerKey]*flight
	warm   *worker
	ready  *slot

	warms warmth // New makes it

	refreshing sync.Mutex // the parser's root is being changed
}

// PullRequest names an image and how to get it.
type PullRequest struct {
	Image          reference.Reference // with the digest of manifest or index
	ManifestDigest digest.Digest       // the platform's manifest
	IndexDigest    digest.Digest       // "" if Image's digest is the manifest's
	Config         registry.Config
	// KeySocket gives the parser's end of a connection to the key holder, good for
	// this manifest; nil: encrypted layers are an error.
	KeySocket func(ctx context.Context, manifest digest.Digest) (*os.File, error)
	// BeforeKeys, if set, is called before the first key of an image is asked for.
	BeforeKeys func(ctx context.Context) error
	// Progress, if set, is told of bytes pulled. It must not block.
	Progress func(Progress)
}

// Progress is the state of one layer.
type Progress struct {
	Layer  int // from 0
	Layers int
	Bytes  int64 // of the blob so far
	Size   int64
}

// Image is a verified, unpacked image.
type Image struct {
	ManifestDigest digest.Digest
	Config         *manifest.Config
	ConfigBytes    []byte
	Layers         []LayerDir // lowest first
	// Times of this pull: those of layers unpacked at once add up.
	Times Times
}

// LayerDir is one unpacked layer, in overlayfs's form.
type LayerDir struct {
	Dir    string
	DiffID digest.Digest
}

// New prepares the store, removing what an earlier process may have left.
func New(opt Options) (*Service, error) {
	if opt.Root == "" || opt.Start == nil {
		return nil, errors.New("unpacker: root or starter is missing")
	}
	if opt.Workers <= 0 {
		opt.Workers = DefaultWorkers
	}
	if opt.Platform == (manifest.Platform{}) {
		opt.Platform = manifest.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	s := &Service{opt: opt, store: opt.Root, sem: make(chan struct{}, opt.Workers), warms: newWarmth(opt.Warm), images: map[string]*Image{}, layers: map[layerKey]*flight{}}
	if err := os.MkdirAll(opt.Root, 0o711); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	// The parser's user passes through on the way to its own root.
	if err := os.Chmod(opt.Root, 0o711); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	for _, d := range []string{"layers", "staging", "parser"} {
		if err := os.RemoveAll(s.path(d)); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
		if err := os.Mkdir(s.path(d), 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	for _, d := range []string{"parser", "parser/etc"} {
		if err := os.MkdirAll(s.path(d), 0o755); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
		if err := os.Chmod(s.path(d), 0o755); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	return s, nil
}

// MountStore mounts a tmpfs of size bytes for Options.Root. Device nodes in it
// cannot be opened there: a writer that was taken over gains nothing by making one.
func MountStore(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NODEV, "mode=0711,size="+strconv.FormatInt(size, 10)); err != nil {
		return fmt.Errorf("image store: mounting tmpfs: %w", err)
	}
	return nil
}

// MoveTo has layers be unpacked in another folder of ours alone from now on. No image
// may have been pulled.
func (s *Service) MoveTo(ctx context.Context, dir string) error {
	if err := await(ctx, s.warms.slot); err != nil { // else a slot is made where the store was
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	for _, d := range []string{"layers", "staging"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return fmt.Errorf("image store: %w", err)
		}
	}
	s.mu.Lock()
	if len(s.images) > 0 || len(s.layers) > 0 {
		s.mu.Unlock()
		return errors.New("image store: images are in it already")
	}
	s.store = dir
	s.mu.Unlock()
	s.dropSlot() // it was made where the store was
	return nil
}

// inStore gives a path of staging or layers.
func (s *Service) inStore(elem ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return filepath.Join(append([]string{s.store}, elem...)...)
}

func (s *Service) path(elem ...string) string {
	return filepath.Join(append([]string{s.opt.Root}, elem...)...)
}

// warmth says what Warm is at: channels that it closes. Closed from the beginning where
// Options.Warm does not announce it.
type warmth struct{ parser, slot chan struct{} }

func newWarmth(announced bool) warmth {
	w := warmth{make(chan struct{}), make(chan struct{})}
	if !announced {
		close(w.parser)
		close(w.slot)
	}
	return w
}

// Warm starts a parser and a writer ahead of the first Pull: starting processes
// is a good part of pulling a small image on a slow machine. Once, and announced by
// Options.Warm: pulls wait for it.
func (s *Service) Warm() error {
	if !s.opt.Warm {
		return errors.New("unpacker: a warm start was not announced")
	}
	defer close(s.warms.slot)
	p, err := s.newParser()
	if err == nil {
		s.mu.Lock()
		p, s.warm = s.warm, p
		s.mu.Unlock()
		if p != nil {
			p.leave()
		}
	}
	close(s.warms.parser)
	if err != nil {
		return err
	}
	return s.prepareSlot()
}

// await waits for a part of Warm. What that starts is there sooner than what would be
// started beside it.
func await(ctx context.Context, done chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close ends what Warm started. Pulls in progress end with their contexts.
func (s *Service) Close() {
	s.mu.Lock()
	w := s.warm
	s.warm = nil
	s.mu.Unlock()
	s.dropSlot()
	if w != nil {
		w.leave()
	}
}

// parser gives a process that has done nothing yet.
func (s *Service) parser(ctx context.Context) (*worker, error) {
	if err := await(ctx, s.warms.parser); err != nil {
		return nil, err
	}
	s.mu.Lock()
	w := s.warm
	s.warm = nil
	s.mu.Unlock()
	if w != nil {
		select {
		case <-w.proc.Done():
			_ = w.control.Close()
		default:
			return w, s.refresh()
		}
	}
	return s.newParser()
}

func (s *Service) newParser() (*worker, error) {
	if err := s.refresh(); err != nil {
		return nil, err
	}
	return s.start(ParserName, s.path("parser"))
}

// refresh copies the resolver's configuration into the parser's root. Pulls of
// several containers come here side by side.
func (s *Service) refresh() error {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	for name, from := range map[string]string{"resolv.conf": s.opt.ResolvConf, "hosts": s.opt.Hosts} {
		if from == "" {
			continue
		}
		f, err := os.Open(from)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("parser's root: %w", err)
		}
		b, err := io.ReadAll(io.LimitReader(f, 64<<10))
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("parser's root: %w", err)
		}
		to := s.path("parser", "etc", name)
		if err := os.WriteFile(to+".new", b, 0o644); err != nil {
			return fmt.Errorf("parser's root: %w", err)
		}
		if err := os.Rename(to+".new", to); err != nil {
			return fmt.Errorf("parser's root: %w", err)
		}
	}
	return nil
}

func (s *Service) number() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return strconv.Itoa(s.next)
}
