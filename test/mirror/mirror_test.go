package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
)

func writeLayout(t *testing.T, dir string) (index v1.ImageIndex, blob v1.Layer) {
	t.Helper()
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	index = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	return index, layers[0]
}

// call gives the answer's body and status.
func call(t *testing.T, method, url string, body []byte) (string, int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), resp.StatusCode
}

func TestServesLayoutsByTheirNames(t *testing.T) {
	root := t.TempDir()
	index, layer := writeLayout(t, filepath.Join(root, "docker.io", "library", "nginx", "1.29"))
	h, names, err := newMirror(root, "")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	c := conf(addr, names)
	if !strings.Contains(c, `prefix = "docker.io"`) || !strings.Contains(c, `location = "`+addr+`/docker.io"`) {
		t.Errorf("configuration lacks docker.io:\n%s", c)
	}
	want, err := index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	repo := srv.URL + "/v2/docker.io/library/nginx"
	if got, code := call(t, http.MethodGet, repo+"/manifests/1.29", nil); code != 200 || got != string(want) {
		t.Errorf("manifest: %d %q", code, got)
	}
	digest, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	got, code := call(t, http.MethodGet, repo+"/blobs/"+digest.String(), nil)
	if have, _, _ := v1.SHA256(strings.NewReader(got)); code != 200 || have != digest {
		t.Errorf("layer: %d, digest %v, want %v", code, have, digest)
	}
	if _, code := call(t, http.MethodPut, srv.URL+"/v2/registry.example/x/manifests/y", want); code != http.StatusMethodNotAllowed {
		t.Errorf("a push without --writable was answered with %d", code)
	}
}

func TestPushesLandInTheFolder(t *testing.T) {
	dir := t.TempDir()
	h, _, err := newMirror("", dir)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	repo := srv.URL + "/v2/registry.example/a/b"
	blob := []byte("some layer")
	digest, _, err := v1.SHA256(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	if b, code := call(t, http.MethodPost, fmt.Sprintf("%s/blobs/uploads/?digest=%s", repo, digest), blob); code != http.StatusCreated {
		t.Fatalf("pushing a blob: %d %s", code, b)
	}
	if b, code := call(t, http.MethodGet, repo+"/blobs/"+digest.String(), nil); code != 200 || b != string(blob) {
		t.Errorf("pulling it: %d %q", code, b)
	}
	if b, code := call(t, http.MethodPut, repo+"/manifests/c", []byte(`{"schemaVersion":2}`)); code != http.StatusCreated {
		t.Fatalf("pushing a manifest: %d %s", code, b)
	}
	if m, _ := filepath.Glob(filepath.Join(dir, "manifest-*.json")); len(m) != 1 {
		t.Errorf("%d copies of the manifest in the folder, want 1", len(m))
	}
}

func TestListensOnLoopbackOnly(t *testing.T) {
	if err := serve("", "", "0.0.0.0:0", "", io.Discard); err == nil {
		t.Error("it would listen on every address")
	}
}
