package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

func TestLayersAreTheSameEveryTime(t *testing.T) {
	for _, m := range []types.MediaType{types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer} {
		var digests []string
		for range 2 {
			tr := tree{}
			tr.skeleton()
			tr.accounts("redis", 999, "/data")
			tr.hardlink("bin/second", "bin/first")
			tr.file("bin/first", 0o755, "program")
			plain, err := tr.tar()
			if err != nil {
				t.Fatal(err)
			}
			l, err := newLayer(plain, m)
			if err != nil {
				t.Fatal(err)
			}
			digests = append(digests, l.digest.String())
		}
		if digests[0] != digests[1] {
			t.Errorf("%s: %v", m, digests)
		}
	}
}

func TestTarOrder(t *testing.T) {
	tr := tree{}
	tr.hardlink("bin/a", "bin/z") // before its first name in the order of paths
	tr.file("bin/z", 0o755, "x")
	tr.add("tmp", &node{mode: fs.ModeDir | fs.ModeSticky | 0o777})
	b, err := tr.tar()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]*tar.Header{}
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeLink && seen[h.Linkname] == nil {
			t.Errorf("%s links to %s, which comes later", h.Name, h.Linkname)
		}
		seen[h.Name] = h
	}
	if seen["tmp/"].Mode != 0o1777 {
		t.Errorf("tmp has mode %o", seen["tmp/"].Mode)
	}
	if seen["usr/bin/a"] == nil || seen["bin/a"] != nil {
		t.Error("paths are not merged into usr")
	}
}

func TestLibrariesNameWhatIsMissing(t *testing.T) {
	if err := (tree{"usr/bin/x": {data: []byte("\x7fELF but broken")}}).libraries(tree{}); err == nil {
		t.Error("a broken program passed")
	}
}
