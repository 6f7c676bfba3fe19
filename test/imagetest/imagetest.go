// Package imagetest makes container images for tests and serves them: layers
// from lists of entries, compressed and encrypted in every accepted way, from a
// small registry that can be told to misbehave.
//
// Trust zone: tests only.
package imagetest

import (
	"archive/tar"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/ocicrypt"
)

// Entry is one name in a layer.
type Entry struct {
	Name, Link, Data string
	Type             byte // tar.TypeReg if zero
	Mode             int64
	UID, GID         int
}

// Layer is a layer's blob with what is known of it.
type Layer struct {
	Descriptor manifest.Descriptor
	Blob       []byte
	DiffID     digest.Digest
}

// Tar makes an uncompressed layer.
func Tar(t testing.TB, entries ...Entry) Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Type == 0 {
			e.Type = tar.TypeReg
		}
		if e.Mode == 0 {
			e.Mode = 0o644
			if e.Type == tar.TypeDir {
				e.Mode = 0o755
			}
		}
		h := &tar.Header{Name: e.Name, Linkname: e.Link, Typeflag: e.Type, Mode: e.Mode, Uid: e.UID, Gid: e.GID, Size: int64(len(e.Data)), ModTime: time.Unix(1_700_000_000, 0), Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return layer("application/vnd.oci.image.layer.v1.tar", b.Bytes(), digest.FromBytes(b.Bytes()))
}

func layer(mediaType string, blob []byte, diffID digest.Digest) Layer {
	return Layer{Blob: blob, DiffID: diffID, Descriptor: manifest.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))}}
}

// Gzip compresses a plain layer.
func (l Layer) Gzip(t testing.TB) Layer {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(l.Blob); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return layer(l.Descriptor.MediaType+"+gzip", b.Bytes(), l.DiffID)
}

// Zstd compresses a plain layer.
func (l Layer) Zstd(t testing.TB) Layer {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return layer(l.Descriptor.MediaType+"+zstd", w.EncodeAll(l.Blob, nil), l.DiffID)
}

// Encrypt encrypts a layer for one KEK (32 bytes).
func (l Layer) Encrypt(t testing.TB, kid string, kek []byte) Layer {
	t.Helper()
	sym, nonce := make([]byte, 32), make([]byte, 16)
	_, _ = rand.Read(sym)
	_, _ = rand.Read(nonce)
	block, err := aes.NewCipher(sym)
	if err != nil {
		t.Fatal(err)
	}
	ct := make([]byte, len(l.Blob))
	cipher.NewCTR(block, nonce).XORKeyStream(ct, l.Blob)
	mac := hmac.New(sha256.New, sym)
	mac.Write(ct)
	priv, err := json.Marshal(ocicrypt.PrivateOptions{SymKey: sym, Digest: l.Descriptor.Digest, Opts: map[string][]byte{"nonce": nonce}})
	if err != nil {
		t.Fatal(err)
	}
	packet, err := ocicrypt.Seal(kid, kek, priv)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := json.Marshal(ocicrypt.PublicOptions{Cipher: ocicrypt.Cipher, HMAC: mac.Sum(nil), Opts: map[string][]byte{}})
	if err != nil {
		t.Fatal(err)
	}
	out := layer(l.Descriptor.MediaType+"+encrypted", ct, l.DiffID)
	out.Descriptor.Annotations = map[string]string{
		ocicrypt.AnnotationKeys:    base64.StdEncoding.EncodeToString(packet),
		ocicrypt.AnnotationPubOpts: base64.StdEncoding.EncodeToString(pub),
	}
	return out
}

// Registry serves images over HTTP.
type Registry struct {
	*httptest.Server
	// Blob, if set, answers requests for blobs itself when it returns true.
	Blob func(w http.ResponseWriter, r *http.Request, content []byte) bool

	mu      sync.Mutex
	content map[string][]byte // "manifests/<id>", "blobs/<id>"
	types   map[string]string
	hits    map[string]int
}

// NewRegistry starts a registry; it ends with the test.
func NewRegistry(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{content: map[string][]byte{}, types: map[string]string{}, hits: map[string]int{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(func() { r.CloseClientConnections(); r.Close() })
	return r
}

// Host gives "address:port".
func (r *Registry) Host() string { return strings.TrimPrefix(r.URL, "http://") }

// Hits says how often "blobs/<digest>" or "manifests/<id>" was asked for.
func (r *Registry) Hits(key string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hits[key]
}

// Put stores content of kind "blobs" or "manifests" under its digest and id.
func (r *Registry) Put(kind, id, mediaType string, b []byte) manifest.Descriptor {
	d := digest.FromBytes(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range []string{string(d), id} {
		if k != "" {
			r.content[kind+"/"+k], r.types[kind+"/"+k] = b, mediaType
		}
	}
	return manifest.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

// Replace makes a digest or tag give other bytes.
func (r *Registry) Replace(key string, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.content[key] = b
}

// Image stores an image of layers for linux/amd64 under tag, with these members
// of its config ("{}" for none), and gives its manifest's digest.
func (r *Registry) Image(t testing.TB, tag, config string, layers ...Layer) digest.Digest {
	t.Helper()
	var diffIDs []digest.Digest
	descs := []manifest.Descriptor{}
	for _, l := range layers {
		r.Put("blobs", "", l.Descriptor.MediaType, l.Blob)
		diffIDs = append(diffIDs, l.DiffID)
		descs = append(descs, l.Descriptor)
	}
	cfg, err := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "config": json.RawMessage(config), "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifest.TypeOCIManifest, "config": r.Put("blobs", "", manifest.TypeOCIConfig, cfg), "layers": descs})
	if err != nil {
		t.Fatal(err)
	}
	return r.Put("manifests", tag, manifest.TypeOCIManifest, m).Digest
}

// ServeHTTP answers pulls.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/v2/" {
		return // the API is here
	}
	parts := strings.Split(req.URL.Path, "/")
	key := strings.Join(parts[max(0, len(parts)-2):], "/")
	r.mu.Lock()
	b, ok := r.content[key]
	ctype := r.types[key]
	r.hits[key]++
	r.mu.Unlock()
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"UNKNOWN","message":"not here"}]}`)
		return
	}
	w.Header().Set("Content-Type", ctype)
	if strings.HasPrefix(key, "blobs/") && r.Blob != nil && r.Blob(w, req, b) {
		return
	}
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(b))
}

// Get gives stored content by "manifests/<id>" or "blobs/<id>".
func (r *Registry) Get(key string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.content[key]
}
