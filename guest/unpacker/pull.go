package unpacker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/reference"
)

// Pull makes an image available. Images that are there already cost nothing, but
// only under the very reference and digest they were verified with.
func (s *Service) Pull(ctx context.Context, req PullRequest) (*Image, error) {
	if req.ManifestDigest == "" {
		return nil, errors.New("pulling an image: no manifest digest: the guest pulls nothing that the policy does not pin")
	}
	if d := req.Image.Digest; d != "" && d != req.ManifestDigest && d != req.IndexDigest {
		return nil, fmt.Errorf("pulling %s: its digest is neither the manifest's (%s) nor the index's (%s)", req.Image, req.ManifestDigest, req.IndexDigest)
	}
	ref := req.Image.WithDigest(req.ManifestDigest)
	s.mu.Lock()
	img := s.images[ref.String()]
	s.mu.Unlock()
	if img != nil {
		return img, nil
	}
	p := &pull{s: s, req: &req, ref: ref}
	defer p.close()
	// The first layer's writer starts while the registry answers.
	p.prepare(ctx)
	defer func() {
		p.preparing.Wait()
		s.dropSlot()
	}()
	img, err := p.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref.Name(), err)
	}
	s.mu.Lock()
	s.images[ref.String()] = img
	s.mu.Unlock()
	return img, nil
}

// pull is one image on its way.
type pull struct {
	s        *Service
	req      *PullRequest
	ref      reference.Reference // with the manifest's digest
	raw      []byte              // manifest
	manifest *manifest.Manifest

	preparing sync.WaitGroup // slots ahead of their layers

	mu     sync.Mutex
	left   int // layers that have no slot yet
	idle   []*worker
	closed bool // the image is done, though another one may still wait for a layer
	tokens map[string]string
	times  Times
}

// prepare makes a slot ready for the next layer.
func (p *pull) prepare(ctx context.Context) {
	p.preparing.Go(func() {
		if await(ctx, p.s.warms.slot) == nil {
			_ = p.s.prepareSlot() // a layer that cannot have one says why
		}
	})
}

// slot gives the next layer's. Where layers come one after the other, the writer of the
// one behind it starts meanwhile.
func (p *pull) slot(ctx context.Context) (*slot, error) {
	if p.s.opt.Workers == 1 {
		p.preparing.Wait() // it is sooner there than another one
	}
	sl, err := p.s.takeSlot(ctx)
	p.mu.Lock()
	p.left--
	more := err == nil && p.left > 0 && !p.closed && p.s.opt.Workers == 1
	p.mu.Unlock()
	if more {
		p.prepare(ctx)
	}
	return sl, err
}

func (p *pull) run(ctx context.Context) (*Image, error) {
	began := time.Now()
	r, err := p.resolve(ctx)
	if err != nil {
		return nil, err
	}
	resolved := time.Since(began)
	// From here on the bytes are the owner's: their digests lead back to the policy.
	if err := p.req.ManifestDigest.CheckBytes("manifest", r.Manifest); err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(r.Manifest, "")
	if err != nil {
		return nil, err
	}
	if doc.Manifest == nil {
		return nil, fmt.Errorf("%s is an index, expected a manifest", p.req.ManifestDigest)
	}
	p.raw, p.manifest = r.Manifest, doc.Manifest
	if err := p.manifest.Config.Digest.CheckBytes("image config", r.Config); err != nil {
		return nil, err
	}
	cfg, err := manifest.ParseConfig(r.Config, p.manifest)
	if err != nil {
		return nil, err
	}
	if !cfg.RunsOn(p.s.opt.Platform) {
		return nil, fmt.Errorf("is for %s, this guest is %s", cfg.Platform(), p.s.opt.Platform)
	}
	if p.req.BeforeKeys != nil && slices.ContainsFunc(p.manifest.Layers, encrypted) {
		if err := p.req.BeforeKeys(ctx); err != nil {
			return nil, err
		}
	}
	dirs, err := p.layers(ctx, cfg.RootFS.DiffIDs)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.times.Resolve = resolved
	times := p.times // a layer that another image waits for may still add to it
	p.mu.Unlock()
	return &Image{ManifestDigest: p.req.ManifestDigest, Config: cfg, ConfigBytes: r.Config, Layers: dirs, Times: times}, nil
}

func encrypted(d manifest.Descriptor) bool {
	lt, err := manifest.ParseLayerType(d.MediaType)
	return err != nil || lt.Encrypted // what is wrong with it is said when it is unpacked
}

func (p *pull) resolve(ctx context.Context) (*reply, error) {
	w, err := p.take(ctx)
	if err != nil {
		return nil, err
	}
	r, err := p.ask(ctx, w, &job{Op: opResolve, Ref: p.ref, Config: p.req.Config}, nil, nil)
	if err != nil {
		w.end()
		return nil, err
	}
	p.mu.Lock()
	p.tokens = r.Tokens
	p.mu.Unlock()
	p.give(w)
	return r, nil
}

// layers unpacks all layers, as many at once as the guest allows, and stops at
// the first error.
func (p *pull) layers(ctx context.Context, diffIDs []digest.Digest) ([]LayerDir, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := make([]LayerDir, len(diffIDs))
	p.mu.Lock()
	p.left = len(diffIDs)
	p.mu.Unlock()
	seen := map[digest.Digest]int{}
	var wg sync.WaitGroup
	for i, id := range diffIDs {
		key := layerKey{diffID: id, blob: p.manifest.Layers[i].Digest, repeat: seen[id]}
		if encrypted(p.manifest.Layers[i]) {
			key.image = p.req.ManifestDigest
		}
		seen[id]++
		wg.Go(func() {
			dir, err := p.s.layer(ctx, key, func(ctx context.Context) (string, error) { return p.unpack(ctx, i, id) })
			if err != nil {
				cancel(&layerError{i + 1, len(diffIDs), err}) // the first one wins
				return
			}
			out[i] = LayerDir{Dir: dir, DiffID: id}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return out, nil
}

// ask sends a job and waits for its end.
func (p *pull) ask(ctx context.Context, w *worker, j *job, progress func(int64), files fileList) (*reply, error) {
	if p.s.opt.Clock != nil {
		now, only := p.s.opt.Clock()
		j.Now, j.OnlyFloor = now.Unix(), only
	}
	p.mu.Lock()
	j.Config.Tokens = maps.Clone(p.tokens)
	p.mu.Unlock()
	if d, ok := ctx.Deadline(); ok {
		_ = w.control.SetWriteDeadline(d)
	} else {
		_ = w.control.SetWriteDeadline(time.Now().Add(10 * time.Second))
	}
	if err := send(w.control, j, files...); err != nil {
		return nil, w.died(err)
	}
	return w.await(ctx, progress)
}

// take gives a parser for this pull, one that has worked for it before if there
// is one.
func (p *pull) take(ctx context.Context) (*worker, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		w := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return w, nil
	}
	p.mu.Unlock()
	return p.s.parser(ctx)
}

// give returns a parser that did its job.
func (p *pull) give(w *worker) {
	p.mu.Lock()
	keep := !p.closed
	if keep {
		p.idle = append(p.idle, w)
	}
	p.mu.Unlock()
	if !keep {
		w.end()
	}
}

func (p *pull) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, w := range idle {
		w.end()
	}
}
