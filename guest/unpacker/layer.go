package unpacker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/image/apply"
	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/registry"
)

type fileList = []*os.File

// layerKey names an unpacked layer: what it was made of and what it gave, and which of
// its appearances in one image (overlayfs stacks no directory twice). An encrypted one is
// its image's alone: another image has to show the keys itself.
type layerKey struct {
	diffID, blob, image digest.Digest
	repeat              int
}

// flight is a layer being unpacked, or unpacked.
type flight struct {
	done    chan struct{}
	cancel  context.CancelCauseFunc
	waiting int
	dir     string
	err     error
}

var errNobodyWaits = errors.New("nobody waits for the layer any more")

// layer gives a layer's directory, running work at most once for all callers
// at the same time. Work ends when the last caller's context does.
func (s *Service) layer(ctx context.Context, key layerKey, work func(context.Context) (string, error)) (string, error) {
	s.mu.Lock()
	f := s.layers[key]
	if f == nil {
		wctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		f = &flight{done: make(chan struct{}), cancel: cancel}
		s.layers[key] = f
		go func() {
			f.dir, f.err = s.limited(wctx, work)
			s.mu.Lock()
			if f.err != nil && s.layers[key] == f {
				delete(s.layers, key) // the next caller may try again
			}
			s.mu.Unlock()
			close(f.done)
			cancel(nil)
		}()
	}
	f.waiting++
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.dir, f.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	f.waiting--
	last := f.waiting == 0
	if last && s.layers[key] == f {
		delete(s.layers, key)
	}
	s.mu.Unlock()
	if last {
		f.cancel(errNobodyWaits)
		<-f.done // nothing of it is left when the caller goes on
	}
	return "", context.Cause(ctx)
}

func (s *Service) limited(ctx context.Context, work func(context.Context) (string, error)) (string, error) {
	select {
	case s.sem <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { <-s.sem }()
	return work(ctx)
}

// maxPlaces bounds how many places that gave wrong bytes are passed over.
const maxPlaces = 4

// unpack brings layer i into the store and gives its directory.
func (p *pull) unpack(ctx context.Context, i int, diffID digest.Digest) (string, error) {
	d := p.manifest.Layers[i]
	what := fmt.Sprintf("layer %d of %d", i+1, len(p.manifest.Layers))
	cfg := p.req.Config
	for try := 1; ; try++ {
		j := &job{Op: opLayer, Ref: p.ref, Config: cfg, What: what, Layer: &d, DiffID: string(diffID), Limits: p.s.opt.Limits}
		dir, err := p.unpackOnce(ctx, i, j)
		var f *failed
		if err == nil || !errors.As(err, &f) || f.r.BadHost == "" || try == maxPlaces {
			return dir, err
		}
		// A place gave other bytes than the digest's. Another one may have them.
		skip := append(slices.Clone(cfg.SkipHosts), f.r.BadHost)
		cfg.SkipHosts = skip
		if srcs, serr := cfg.Conf.Sources(p.ref); serr != nil || !slices.ContainsFunc(srcs, func(s registry.Source) bool { return !slices.Contains(skip, s.Ref.Domain) }) {
			return dir, err
		}
	}
}

func (p *pull) unpackOnce(ctx context.Context, i int, j *job) (_ string, err error) {
	lt, err := manifest.ParseLayerType(j.Layer.MediaType)
	if err != nil {
		return "", err
	}
	slot, err := p.slot(ctx)
	if err != nil {
		return "", err
	}
	defer func() { slot.end(err != nil) }()
	parser, err := p.take(ctx)
	if err != nil {
		return "", err
	}
	files := fileList{slot.records}
	if lt.Encrypted && p.req.KeySocket != nil {
		key, err := p.req.KeySocket(ctx, p.req.ManifestDigest)
		if err != nil {
			p.give(parser)
			return "", fmt.Errorf("%s: reaching the key holder: %w", j.What, err)
		}
		defer key.Close()
		files = append(files, key)
		j.Manifest = p.raw
	}
	wrote := make(chan outcome, 1)
	go func() {
		r, err := slot.writer.await(ctx, nil)
		wrote <- outcome{r, err}
	}()
	progress := func(int64) {}
	if fn := p.req.Progress; fn != nil {
		progress = func(b int64) {
			fn(Progress{Layer: i, Layers: len(p.manifest.Layers), Bytes: b, Size: j.Layer.Size})
		}
		progress(0)
	}
	parsed, perr := p.ask(ctx, parser, j, progress, files)
	_ = slot.records.Close() // else the writer would wait for a parser that is gone
	var f *failed
	if perr != nil && !errors.As(perr, &f) {
		parser.end() // it broke
	} else {
		p.give(parser)
	}
	w := <-wrote
	if err := verdict(j.What, parsed, perr, w); err != nil {
		return "", err
	}
	progress(j.Layer.Size)
	if parsed.Times != nil {
		p.mu.Lock()
		p.times.add(parsed.Times)
		p.mu.Unlock()
	}
	return p.s.activate(slot, w.r.Opaque)
}

type outcome struct {
	r   *reply
	err error
}

// verdict finds the cause where both halves have failed: the one that did not
// just miss the other.
func verdict(what string, parsed *reply, perr error, w outcome) error {
	if perr != nil {
		var f *failed
		if w.err != nil && errors.As(perr, &f) && f.r.PeerGone {
			return fmt.Errorf("%s: %w", what, w.err)
		}
		return perr
	}
	if w.err != nil {
		return fmt.Errorf("%s: %w", what, w.err)
	}
	// The parser counts tar entries, of which some make no record.
	if w.r.Entries > parsed.Entries {
		return fmt.Errorf("%s: the writer saw %d records of %d entries", what, w.r.Entries, parsed.Entries)
	}
	return nil
}

// activate gives a finished layer its place.
func (s *Service) activate(slot *slot, opaque []string) (string, error) {
	if len(opaque) > 0 {
		fd, err := unix.Open(slot.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return "", fmt.Errorf("finishing a layer: %w", err)
		}
		err = apply.MarkOpaque(fd, opaque)
		_ = unix.Close(fd)
		if err != nil {
			return "", fmt.Errorf("finishing a layer: %w", err)
		}
	}
	dir := s.inStore("layers", slot.name)
	if err := os.Rename(slot.dir, dir); err != nil {
		return "", fmt.Errorf("finishing a layer: %w", err)
	}
	return dir, nil
}
