package gramine

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/test/imagetest"
)

func treeOf(t *testing.T, layers ...imagetest.Layer) (*Tree, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	tree, err := NewTree(root)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		if err := tree.AddLayer(bytes.NewReader(l.Blob), "layer", l.DiffID); err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
	}
	return tree, dir
}

func dirEntry(name string) imagetest.Entry {
	return imagetest.Entry{Name: name, Type: tar.TypeDir, Mode: 0o755}
}

func link(name, to string) imagetest.Entry {
	return imagetest.Entry{Name: name, Type: tar.TypeSymlink, Link: to}
}

// TestFiles: layers hide what is below them, and links are names.
func TestFiles(t *testing.T) {
	for name, c := range map[string]struct {
		layers []imagetest.Layer
		want   map[string]string // path: content
	}{
		"links": {
			[]imagetest.Layer{imagetest.Tar(t, dirEntry("usr"), dirEntry("usr/lib"), imagetest.Entry{Name: "usr/lib/libc.so.6", Data: "c"}, link("lib", "usr/lib"), link("usr/lib/libc.so", "libc.so.6"),
				link("usr/abs", "/usr/lib/libc.so"), link("out", "../../../../etc/passwd"), link("gone", "nowhere"), link("self", "self"), link("usr/lib/X11", "."), link("usr/up", ".."),
				imagetest.Entry{Name: "hard", Type: tar.TypeLink, Link: "usr/lib/libc.so.6"})},
			map[string]string{"usr/lib/libc.so.6": "c", "usr/lib/libc.so": "c", "lib/libc.so.6": "c", "lib/libc.so": "c", "usr/abs": "c", "hard": "c"},
		},
		"a layer hides": {
			[]imagetest.Layer{
				imagetest.Tar(t, dirEntry("d"), imagetest.Entry{Name: "d/a", Data: "old"}, imagetest.Entry{Name: "d/b", Data: "b"}, dirEntry("o"), imagetest.Entry{Name: "o/x", Data: "x"}, imagetest.Entry{Name: "gone", Data: "g"}),
				imagetest.Tar(t, imagetest.Entry{Name: "d/a", Data: "new"}, imagetest.Entry{Name: "o/.wh..wh..opq"}, imagetest.Entry{Name: "o/y", Data: "y"}, imagetest.Entry{Name: ".wh.gone"}),
			},
			map[string]string{"d/a": "new", "d/b": "b", "o/y": "y"},
		},
		"a file in the place of a folder, and the other way round": {
			[]imagetest.Layer{
				imagetest.Tar(t, dirEntry("d"), imagetest.Entry{Name: "d/a", Data: "a"}, imagetest.Entry{Name: "f", Data: "f"}),
				imagetest.Tar(t, imagetest.Entry{Name: "d", Data: "now a file"}, dirEntry("f"), imagetest.Entry{Name: "f/in", Data: "in"}),
			},
			map[string]string{"d": "now a file", "f/in": "in"},
		},
		"a folder in the place of a link does not write through it": {
			[]imagetest.Layer{
				imagetest.Tar(t, dirEntry("real"), imagetest.Entry{Name: "real/a", Data: "a"}, link("l", "real")),
				imagetest.Tar(t, dirEntry("l"), imagetest.Entry{Name: "l/b", Data: "b"}),
			},
			map[string]string{"real/a": "a", "l/b": "b"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tree, dir := treeOf(t, c.layers...)
			files, err := tree.Files()
			if err != nil {
				t.Fatal(err)
			}
			if err := tree.Write(files); err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, f := range files {
				b, err := os.ReadFile(filepath.Join(dir, "rootfs", f.Path))
				if err != nil {
					t.Fatal(err)
				}
				got[f.Path] = string(b)
				if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != f.SHA256 {
					t.Errorf("%s: another digest than its content's", f.Path)
				}
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// TestManyFiles: an image with very many names takes seconds at most, not hours.
func TestManyFiles(t *testing.T) {
	var entries []imagetest.Entry
	for i := range 4_000 {
		entries = append(entries, imagetest.Entry{Name: fmt.Sprintf("d%d/f%d", i%100, i)})
	}
	l := imagetest.Tar(t, entries...)
	tree, _ := treeOf(t, l, l)
	files, err := tree.Files()
	if err != nil || len(files) != len(entries) {
		t.Errorf("%d files, %v", len(files), err)
	}
}

func TestNameThatIsNoText(t *testing.T) {
	tree, _ := treeOf(t, imagetest.Tar(t, imagetest.Entry{Name: "a\xff"}))
	if _, err := tree.Files(); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Error(err)
	}
}

func TestBrokenLayer(t *testing.T) {
	tree, _ := treeOf(t)
	l := imagetest.Tar(t, imagetest.Entry{Name: "a", Data: "a"})
	if err := tree.AddLayer(bytes.NewReader(l.Blob), "layer 1", imagetest.Tar(t).DiffID); err == nil {
		t.Error("another layer than the image's was taken")
	}
	if err := tree.AddLayer(bytes.NewReader(l.Blob[:700]), "layer 1", l.DiffID); err == nil {
		t.Error("half a layer was taken")
	}
}
