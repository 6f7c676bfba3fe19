package unpacker

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/cofferproject/coffer/test/imagetest"
)

// Layers are unpacked where the store was moved to, by whatever was made ready before.
func TestMoveTo(t *testing.T) {
	r := NewRegistry(t)
	s := newService(t, Options{Warm: true})
	m := r.Image(t, "v1", `{}`, Tar(t, Entry{Name: "etc", Type: tar.TypeDir}, Entry{Name: "etc/a", Data: "A"}).Gzip(t))
	if err := s.Warm(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "unpacker-disk-") // as newService: not below t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := s.MoveTo(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	img, err := s.Pull(t.Context(), request(t, r, m))
	if err != nil {
		t.Fatal(err)
	}
	if got := img.Layers[0].Dir; !strings.HasPrefix(got, filepath.Join(dir, "layers")+"/") {
		t.Errorf("the layer is in %s", got)
	}
	if b, err := os.ReadFile(filepath.Join(img.Layers[0].Dir, "etc/a")); err != nil || string(b) != "A" {
		t.Errorf("%q, %v", b, err)
	}
	for _, p := range []string{s.path("staging"), s.path("layers"), filepath.Join(dir, "staging")} {
		if left, err := os.ReadDir(p); err != nil || len(left) != 0 {
			t.Errorf("%s: %v, %v", p, left, err)
		}
	}
	if err := s.MoveTo(t.Context(), t.TempDir()); err == nil {
		t.Error("a store with an image in it was moved")
	}
}
