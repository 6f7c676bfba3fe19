package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/api/services/images/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Bounds of what is read of containerd's images, which come from registries.
const (
	maxBlob      = 4 << 20 // an index, a manifest, a configuration
	maxManifests = 64      // of one index
	maxLayers    = 512
	maxImages    = 8192
	maxKnown     = 1024 // images kept in memory
	maxUser      = 256  // bytes of a USER, its group included
)

// namespaceHeader says which of containerd's namespaces a call is about.
const namespaceHeader = "containerd-namespace"

// image is what matters of one manifest.
type image struct {
	config string   // digest
	layers []string // digests of the blobs
	chain  []string // chain ID of each layer
	user   string
}

// imageReader reads images of containerd's. A target is a digest, so what was read
// once stays true.
type imageReader struct {
	images  images.ImagesClient
	content content.ContentClient

	mu    sync.Mutex
	known map[string][]image
}

func newImageReader(c grpc.ClientConnInterface) *imageReader {
	return &imageReader{images: images.NewImagesClient(c), content: content.NewContentClient(c), known: map[string][]image{}}
}

// inNamespace makes calls for one namespace.
func inNamespace(ctx context.Context, ns string) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.Pairs(namespaceHeader, ns))
}

// sameNamespace makes calls for the namespace that a call to us was about.
func sameNamespace(ctx context.Context) (context.Context, error) {
	ns := metadata.ValueFromIncomingContext(ctx, namespaceHeader)
	if len(ns) != 1 || ns[0] == "" || len(ns[0]) > 76 { // containerd's bound
		return nil, status.Error(codes.InvalidArgument, "the call names no namespace")
	}
	return inNamespace(ctx, ns[0]), nil
}

// users finds the USERs of every image whose top layer this is: images may differ in
// their configuration alone.
func (r *imageReader) users(ctx context.Context, layer string) ([]string, error) {
	ctx, err := sameNamespace(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var out []string
	err = r.each(ctx, func(_ *images.Image, all []image) error {
		for i := range all {
			if n := len(all[i].chain); n > 0 && all[i].chain[n-1] == layer && all[i].user != "" {
				out = append(out, all[i].user)
			}
		}
		return nil
	})
	return out, err
}

// each calls f with every image that can be read. One that cannot is left out: its
// manifest is not there, or it is no container image.
func (r *imageReader) each(ctx context.Context, f func(*images.Image, []image) error) error {
	list, err := r.images.List(ctx, &images.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("listing images: %w", err)
	}
	if n := len(list.GetImages()); n > maxImages {
		return fmt.Errorf("%d images, at most %d are looked at", n, maxImages)
	}
	for _, i := range list.GetImages() {
		all, err := r.read(ctx, i.GetTarget().GetDigest())
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			continue
		}
		if err := f(i, all); err != nil {
			return err
		}
	}
	return nil
}

// read reads an image by its target's digest.
func (r *imageReader) read(ctx context.Context, target string) ([]image, error) {
	r.mu.Lock()
	known, ok := r.known[target]
	r.mu.Unlock()
	if ok {
		return known, nil
	}
	var top struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    ocispec.Descriptor   `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if err := r.json(ctx, target, &top); err != nil {
		return nil, err
	}
	if len(top.Manifests) == 0 {
		i, err := r.manifest(ctx, top.Config, top.Layers)
		if err != nil {
			return nil, err
		}
		return r.keep(target, []image{i}), nil
	}
	// An index: containerd has fetched the manifest of its own platform alone.
	if len(top.Manifests) > maxManifests {
		return nil, fmt.Errorf("an index of %d manifests, at most %d", len(top.Manifests), maxManifests)
	}
	var out []image
	for _, m := range top.Manifests {
		var in ocispec.Manifest
		if err := r.json(ctx, m.Digest.String(), &in); status.Code(err) == codes.NotFound {
			continue
		} else if err != nil {
			return nil, err
		}
		i, err := r.manifest(ctx, in.Config, in.Layers)
		if err != nil {
			continue // such as an attestation beside the image
		}
		out = append(out, i)
	}
	if len(out) == 0 {
		return nil, errors.New("none of the index's manifests is there")
	}
	return r.keep(target, out), nil // a node's platform does not change, so no other manifest comes
}

func (r *imageReader) keep(target string, i []image) []image {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= maxKnown {
		clear(r.known)
	}
	r.known[target] = i
	return i
}

func (r *imageReader) manifest(ctx context.Context, config ocispec.Descriptor, layers []ocispec.Descriptor) (image, error) {
	var c ocispec.Image
	if err := r.json(ctx, config.Digest.String(), &c); err != nil {
		return image{}, err
	}
	if n := len(layers); n == 0 || n > maxLayers || n != len(c.RootFS.DiffIDs) {
		return image{}, fmt.Errorf("%d layers and %d of their digests", n, len(c.RootFS.DiffIDs))
	}
	out := image{config: config.Digest.String()}
	if len(c.Config.User) <= maxUser {
		out.user = c.Config.User
	}
	for i := range layers {
		out.layers = append(out.layers, layers[i].Digest.String())
	}
	// identity.ChainIDs works in place.
	for _, id := range identity.ChainIDs(append([]digest.Digest(nil), c.RootFS.DiffIDs...)) {
		out.chain = append(out.chain, id.String())
	}
	return out, nil
}

// json reads a blob, which containerd has verified against its digest.
func (r *imageReader) json(ctx context.Context, dgst string, into any) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	in, err := r.content.Read(ctx, &content.ReadContentRequest{Digest: dgst})
	if err != nil {
		return fmt.Errorf("reading %s: %w", dgst, err)
	}
	var all []byte
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", dgst, err)
		}
		if all = append(all, m.GetData()...); len(all) > maxBlob {
			return fmt.Errorf("reading %s: more than %d bytes", dgst, maxBlob)
		}
	}
	if err := json.Unmarshal(all, into); err != nil {
		return fmt.Errorf("reading %s: %w", dgst, err)
	}
	return nil
}

// has tells whether a blob is in containerd's content store, and its labels.
func (r *imageReader) has(ctx context.Context, dgst string) (bool, map[string]string, error) {
	i, err := r.content.Info(ctx, &content.InfoRequest{Digest: dgst})
	if status.Code(err) == codes.NotFound {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, fmt.Errorf("asking for %s: %w", dgst, err)
	}
	return true, i.GetInfo().GetLabels(), nil
}
