package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containers/ocicrypt"
	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/layerstream"
	"github.com/cofferproject/coffer/image/manifest"
	guest "github.com/cofferproject/coffer/image/ocicrypt"
	"github.com/cofferproject/coffer/image/unpack"
)

// Options of Encrypt and Decrypt.
type Options struct {
	Access   Access
	Platform *manifest.Platform // of several, only this one; nil: all
	Layers   []int              // which layers, from 0 or, negative, from the end; nil: all
	Progress io.Writer          // one line for each layer; may be nil
}

// Result says what was written.
type Result struct {
	Image     string          `json:"image"`
	Digest    digest.Digest   `json:"digest"`
	Manifests []ManifestState `json:"manifests"`
	KeyID     string          `json:"key_id,omitempty"`
	KeyFile   string          `json:"key_file,omitempty"`
	KeyMade   bool            `json:"key_made,omitempty"`
}

// Encrypt copies the image at src to dst with its layers encrypted for the key
// kid. A layer that is encrypted already is an error.
func Encrypt(ctx context.Context, src, dst Location, kid string, kek []byte, o Options) (*Result, error) {
	if _, err := keyURI(kid); err != nil {
		return nil, err
	}
	if len(kek) != KEKSize {
		return nil, fmt.Errorf("key has %d bytes, expected %d", len(kek), KEKSize)
	}
	if dst.Kind == DockerArchive {
		return nil, errors.New("a docker-archive cannot hold encrypted layers; an oci-archive can")
	}
	res, err := transform(ctx, src, dst, o, &encryption{kid: kid, kek: kek})
	if err != nil {
		return nil, fmt.Errorf("encrypting %s: %w", src, err)
	}
	res.KeyID = kid
	return res, nil
}

// Decrypt copies the image at src to dst with its layers decrypted and their
// diffIDs verified.
func Decrypt(ctx context.Context, src, dst Location, keys Keys, o Options) (*Result, error) {
	res, err := transform(ctx, src, dst, o, &decryption{keys: keys})
	if err != nil {
		return nil, fmt.Errorf("decrypting %s: %w", src, err)
	}
	return res, nil
}

// layerChange turns one layer into another with the same content.
type layerChange interface {
	verb() string
	// wants says whether a selected layer is changed; an error refuses the image.
	wants(d manifest.Descriptor) (bool, error)
	change(ctx context.Context, d manifest.Descriptor, diffID digest.Digest, in io.Reader, w *layoutWriter) (manifest.Descriptor, error)
}

type transformer struct {
	src    Source
	w      *layoutWriter
	o      *Options
	c      layerChange
	single bool // one platform's image, no index
	states []ManifestState
	// done are layers changed already, by digest: images of several platforms and
	// repeated layers share them.
	done map[digest.Digest]manifest.Descriptor
}

func transform(ctx context.Context, from, to Location, o Options, c layerChange) (*Result, error) {
	src, err := Open(from, &o.Access)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	t := &transformer{src: src, o: &o, c: c, single: to.Kind == DockerArchive, done: map[digest.Digest]manifest.Descriptor{}}
	root, err := deliver(ctx, to, &o.Access, func(w *layoutWriter) (manifest.Descriptor, error) {
		t.w = w
		return t.run(ctx)
	})
	if err != nil {
		return nil, err
	}
	return &Result{Image: to.String(), Digest: root.Digest, Manifests: t.states}, nil
}

func (t *transformer) run(ctx context.Context) (manifest.Descriptor, error) {
	root, err := t.src.Root(ctx)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	doc, err := manifest.Parse(root.Bytes, root.MediaType)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	if doc.Manifest != nil {
		return t.image(ctx, root)
	}
	if t.o.Platform != nil {
		d, err := doc.Index.Choose(*t.o.Platform)
		if err != nil {
			return manifest.Descriptor{}, err
		}
		return t.child(ctx, d)
	}
	if t.single {
		images := slices.DeleteFunc(slices.Clone(doc.Index.Manifests), isAttachment)
		if len(images) != 1 {
			return manifest.Descriptor{}, fmt.Errorf("has images for %d platforms, and a docker-archive holds one: choose it with --platform", len(images))
		}
		return t.child(ctx, images[0])
	}
	return t.index(ctx, doc.Index)
}

// isAttachment tells what is no image: attestations have no platform of their own.
func isAttachment(d manifest.Descriptor) bool { return d.Platform != nil && d.Platform.OS == "unknown" }

func (t *transformer) child(ctx context.Context, d manifest.Descriptor) (manifest.Descriptor, error) {
	doc, err := t.src.Document(ctx, d)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	out, err := t.image(ctx, doc)
	out.Platform = d.Platform
	return out, err
}

// index changes every image of an index. Attachments to the old manifests
// (attestations) would speak of digests that are no more, and are left out.
func (t *transformer) index(ctx context.Context, x *manifest.Index) (manifest.Descriptor, error) {
	out := struct {
		SchemaVersion int                   `json:"schemaVersion"`
		MediaType     string                `json:"mediaType"`
		Manifests     []manifest.Descriptor `json:"manifests"`
	}{2, manifest.TypeOCIIndex, []manifest.Descriptor{}}
	for _, d := range x.Manifests {
		if isAttachment(d) {
			t.say("left out attachment %s of the old image", d.Digest)
			continue
		}
		m, err := t.child(ctx, d)
		if err != nil {
			return manifest.Descriptor{}, err
		}
		out.Manifests = append(out.Manifests, m)
	}
	return t.document(out, manifest.TypeOCIIndex)
}

func (t *transformer) document(v any, mediaType string) (manifest.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	d, err := t.w.bytes(b)
	return manifest.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}, err
}

// image changes one manifest. Members that are not ours to know stay.
func (t *transformer) image(ctx context.Context, doc *Document) (manifest.Descriptor, error) {
	parsed, err := manifest.Parse(doc.Bytes, doc.MediaType)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	if parsed.Manifest == nil {
		return manifest.Descriptor{}, fmt.Errorf("%s: an index inside an index is not supported", doc.Digest)
	}
	m := parsed.Manifest
	cfgDoc, err := t.src.Document(ctx, m.Config)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	cfg, err := manifest.ParseConfig(cfgDoc.Bytes, m)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	selected, err := selectLayers(t.o.Layers, len(m.Layers))
	if err != nil {
		return manifest.Descriptor{}, err
	}
	layers := make([]manifest.Descriptor, len(m.Layers))
	for i, d := range m.Layers {
		if layers[i], err = t.layer(ctx, d, cfg.RootFS.DiffIDs[i], selected[i], fmt.Sprintf("%s layer %d of %d", cfg.Platform(), i+1, len(m.Layers))); err != nil {
			return manifest.Descriptor{}, fmt.Errorf("%s layer %d of %d: %w", cfg.Platform(), i+1, len(m.Layers), err)
		}
	}
	if _, err := t.w.bytes(cfgDoc.Bytes); err != nil {
		return manifest.Descriptor{}, err
	}
	config := m.Config
	config.MediaType = manifest.TypeOCIConfig
	var members map[string]any
	if err := json.Unmarshal(doc.Bytes, &members); err != nil {
		return manifest.Descriptor{}, err
	}
	members["schemaVersion"], members["mediaType"], members["config"], members["layers"] = 2, manifest.TypeOCIManifest, config, layers
	out, err := t.document(members, manifest.TypeOCIManifest)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	state, err := manifestState(out.Digest, &manifest.Manifest{Config: config, Layers: layers}, cfg)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	t.states = append(t.states, *state)
	return out, nil
}

func (t *transformer) layer(ctx context.Context, d manifest.Descriptor, diffID digest.Digest, selected bool, what string) (manifest.Descriptor, error) {
	change := false
	if selected {
		var err error
		if change, err = t.c.wants(d); err != nil {
			return manifest.Descriptor{}, err
		}
	}
	if out, ok := t.done[d.Digest]; ok && change {
		return out, nil
	}
	in, err := t.src.Blob(ctx, d)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	defer in.Close()
	d.MediaType = ociLayerType(d.MediaType)
	if !change {
		_, _, err := t.w.blob(func(w io.Writer) error { return copyAll(w, in) })
		return d, err
	}
	out, err := t.c.change(ctx, d, diffID, in, t.w)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	t.done[d.Digest] = out
	t.say("%s: %s, %d KiB", what, t.c.verb(), (out.Size+1023)/1024)
	return out, nil
}

func (t *transformer) say(format string, args ...any) {
	if t.o.Progress != nil {
		fmt.Fprintf(t.o.Progress, format+"\n", args...)
	}
}

// selectLayers turns indices into a choice.
func selectLayers(list []int, n int) ([]bool, error) {
	out := make([]bool, n)
	for i := range out {
		out[i] = len(list) == 0
	}
	for _, i := range list {
		j := i
		if j < 0 {
			j += n
		}
		if j < 0 || j >= n {
			return nil, fmt.Errorf("there is no layer %d: the image has %d, counted from 0 or from -1 backwards", i, n)
		}
		out[j] = true
	}
	return out, nil
}

// ociLayerType gives the OCI name of a Docker layer type: Docker has none for
// encrypted layers.
func ociLayerType(mt string) string {
	for docker, oci := range map[string]string{
		"application/vnd.docker.image.rootfs.diff.tar":         "application/vnd.oci.image.layer.v1.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar": "application/vnd.oci.image.layer.nondistributable.v1.tar",
	} {
		if rest, ok := strings.CutPrefix(mt, docker); ok {
			return oci + strings.Replace(rest, ".", "+", 1)
		}
	}
	return mt
}

func copyAll(w io.Writer, r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return err
}

type encryption struct {
	kid string
	kek []byte
}

func (*encryption) verb() string { return "encrypted" }

func (*encryption) wants(d manifest.Descriptor) (bool, error) {
	lt, err := manifest.ParseLayerType(d.MediaType)
	if err != nil {
		return false, err
	}
	for k := range d.Annotations {
		lt.Encrypted = lt.Encrypted || strings.HasPrefix(k, "org.opencontainers.image.enc.")
	}
	if lt.Encrypted {
		return false, errors.New("is encrypted already: decrypt the image first, or leave the layer out with --layer")
	}
	return true, nil
}

func (e *encryption) change(_ context.Context, d manifest.Descriptor, _ digest.Digest, in io.Reader, w *layoutWriter) (manifest.Descriptor, error) {
	ct, finish, err := ocicrypt.EncryptLayer(encryptConfig(e.kid, e.kek), in, ocispec.Descriptor{Digest: godigest.Digest(d.Digest), Size: d.Size})
	if err != nil {
		return manifest.Descriptor{}, err
	}
	out := d
	if out.Digest, out.Size, err = w.blob(func(w io.Writer) error { return copyAll(w, ct) }); err != nil {
		return manifest.Descriptor{}, err
	}
	enc, err := finish()
	if err != nil {
		return manifest.Descriptor{}, err
	}
	out.MediaType += "+encrypted"
	out.Annotations = maps.Clone(d.Annotations)
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	maps.Copy(out.Annotations, enc)
	return out, nil
}

type decryption struct{ keys Keys }

func (*decryption) verb() string { return "decrypted, diffID verified" }

func (*decryption) wants(d manifest.Descriptor) (bool, error) {
	lt, err := manifest.ParseLayerType(d.MediaType)
	return lt.Encrypted, err
}

// change decrypts into the layout and reads the layer the way the guest does, so
// that a broken one is found here.
func (c *decryption) change(ctx context.Context, d manifest.Descriptor, diffID digest.Digest, in io.Reader, w *layoutWriter) (manifest.Descriptor, error) {
	pub, err := guest.ParsePublicOptions(d.Annotations)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	priv, err := guest.UnwrapOptions(ctx, d.Annotations, unwrapper{c.keys})
	if err != nil {
		return manifest.Descriptor{}, err
	}
	plain, err := guest.NewReader(in, pub, priv)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	out := d
	out.Digest, out.Size, err = w.blob(func(f io.Writer) error {
		_, err := unpack.Layer(io.TeeReader(plain, f), "layer", diffID, layerstream.NewEncoder(io.Discard), unpack.Limits{})
		return err
	})
	if err != nil {
		return manifest.Descriptor{}, err
	}
	out.MediaType = strings.TrimSuffix(d.MediaType, "+encrypted")
	out.Annotations = maps.Clone(d.Annotations)
	maps.DeleteFunc(out.Annotations, func(k, _ string) bool { return strings.HasPrefix(k, "org.opencontainers.image.enc.") })
	if len(out.Annotations) == 0 {
		out.Annotations = nil
	}
	return out, nil
}
