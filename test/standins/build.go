package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// builder makes all stand-ins in one go: they share packages and layers.
type builder struct {
	ctx   context.Context
	cache string

	pkgs     map[string]tree
	pool     tree              // every library package, merged
	base     tree              // the debian layer with its libraries
	programs map[string][]byte // by name and architecture
	packed   map[string]*layer // by media type and digest of the tar: several images share layers
}

// source is this program itself: a changed recipe makes other images.
//
//go:embed *.go files
var source embed.FS

const module = "github.com/cofferproject/coffer"

func (b *builder) build(out string) error {
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return err
	}
	var seeds []string
	debian := false
	for _, s := range standins {
		seeds = append(seeds, s.packages...)
		debian = debian || s.base || len(s.packages) > 0
	}
	var pkgs []pkg // none where all images are of our programs alone: then apt is not asked
	var err error
	if debian {
		seeds = append(seeds, basePackages...)
		slices.Sort(seeds)
		if pkgs, err = closure(b.ctx, slices.Compact(seeds)); err != nil {
			return err
		}
	}
	if err := b.compile(); err != nil {
		return err
	}
	key, err := b.key(pkgs)
	if err != nil {
		return err
	}
	done := filepath.Join(b.cache, key)
	if _, err := os.Stat(done); err != nil {
		if err := b.fill(done, pkgs); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := copyTree(done, out); err != nil {
		return err
	}
	fmt.Printf("standins: %d images in %s\n", len(standins), out)
	return nil
}

// fill builds everything into a folder beside dst and renames it at the end, so
// that an interrupted build leaves nothing that looks complete.
func (b *builder) fill(dst string, pkgs []pkg) error {
	var err error
	if b.pkgs, err = unpack(b.ctx, b.cache, pkgs); err != nil {
		return err
	}
	b.pool = tree{}
	for _, p := range pkgs {
		if isLibrary(p.name) {
			for name, n := range b.pkgs[p.name] {
				b.pool[name] = n
			}
		}
	}
	if len(pkgs) > 0 {
		b.base = debianBase(b.pkgs)
		if err := b.base.libraries(b.pool); err != nil {
			return fmt.Errorf("debian layer: %w", err)
		}
	}
	tmp, err := os.MkdirTemp(b.cache, "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, s := range standins {
		err := s.write(filepath.Join(tmp, s.path()), func(arch string) ([]*layer, error) { return b.layers(s, arch) })
		if err != nil {
			return fmt.Errorf("%s: %w", s.ref(), err)
		}
	}
	return os.Rename(tmp, dst)
}

// layers makes the layers of one image: debian, filling, and what is its own.
// They take the kinds of compression in turn, so that every pull uses several.
func (b *builder) layers(s *standin, arch string) ([]*layer, error) {
	gz, zst, plain := types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer
	if s.docker {
		gz, zst, plain = types.DockerLayer, types.DockerLayer, types.DockerLayer
	}
	own := tree{}
	for _, name := range s.packages {
		for _, p := range b.pkgs[name].paths() {
			if wanted(name, p) {
				own.add(p, b.pkgs[name][p])
			}
		}
	}
	full := tree{}
	if s.base {
		for p, n := range b.base {
			full[p] = n
		}
	}
	for p, n := range own {
		full[p] = n
	}
	if err := full.libraries(b.pool); err != nil {
		return nil, err
	}
	for p, n := range full {
		if !s.base || b.base[p] == nil {
			own[p] = n
		}
	}
	if s.own != nil {
		s.own(own)
	}
	var layers []*layer
	add := func(t tree, m types.MediaType) error {
		l, err := b.pack(t, m)
		layers = append(layers, l)
		return err
	}
	if s.base {
		if err := add(b.base, gz); err != nil {
			return nil, err
		}
	}
	if s.bulk > 0 {
		t := tree{}
		t.add("usr/share/filling", &node{mode: 0o444, data: filling(s.repo, s.bulk)})
		if err := add(t, zst); err != nil {
			return nil, err
		}
	}
	if len(own) > 0 {
		m := gz
		if s.program != "" {
			m = plain // the small files; the program follows in a layer of its own
		}
		if err := add(own, m); err != nil {
			return nil, err
		}
	}
	if s.program != "" {
		t := tree{}
		t.add(s.as, &node{mode: 0o755, data: b.programs[s.program+"/"+arch]})
		if err := add(t, gz); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

// pack is newLayer, once for each content.
func (b *builder) pack(t tree, m types.MediaType) (*layer, error) {
	plain, err := t.tar()
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%s %x", m, sha256.Sum256(plain))
	if l := b.packed[key]; l != nil {
		return l, nil
	}
	l, err := newLayer(plain, m)
	if err != nil {
		return nil, err
	}
	if b.packed == nil {
		b.packed = map[string]*layer{}
	}
	b.packed[key] = l
	return l, nil
}

// filling gives n bytes that do not compress and are the same every time.
func filling(seed string, n int) []byte {
	r := rand.NewChaCha8(sha256.Sum256([]byte(seed)))
	b := make([]byte, (n+7)/8*8)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b[:n]
}

// compile builds the programs of ours; the go command's own cache makes a
// second time cheap.
func (b *builder) compile() error {
	b.programs = map[string][]byte{}
	dir, err := os.MkdirTemp("", "coffer-standins-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, s := range standins {
		for _, arch := range s.arches() {
			name := s.program + "/" + arch
			if s.program == "" || b.programs[name] != nil {
				continue
			}
			exe := filepath.Join(dir, s.program+"-"+arch)
			cmd := exec.CommandContext(b.ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=",
				"-o", exe, module+"/test/standins/cmd/"+s.program)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("building %s: %w: %s", name, err, bytes.TrimSpace(out))
			}
			if b.programs[name], err = os.ReadFile(exe); err != nil {
				return err
			}
		}
	}
	return nil
}

// key is the digest of everything that decides the images: packages, programs,
// and this program's own source with its recipes and files.
func (b *builder) key(pkgs []pkg) (string, error) {
	h := sha256.New()
	for _, p := range pkgs {
		fmt.Fprintf(h, "%s %s %s\n", p.name, p.version, p.sha256)
	}
	for _, s := range standins {
		for _, arch := range s.arches() {
			fmt.Fprintf(h, "%s %s %x\n", s.ref(), arch, sha256.Sum256(b.programs[s.program+"/"+arch]))
		}
	}
	err := fs.WalkDir(source, ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := source.ReadFile(p)
		fmt.Fprintf(h, "%s %x\n", p, sha256.Sum256(b))
		return err
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

// applets asks busybox itself which commands it is.
func applets(program []byte) []string {
	f, err := os.CreateTemp("", "busybox-")
	if err != nil {
		return nil
	}
	defer os.Remove(f.Name())
	_, err = f.Write(program)
	if err = errors.Join(err, f.Chmod(0o700), f.Close()); err != nil {
		return nil
	}
	out, err := exec.Command(f.Name(), "--list").Output()
	if err != nil {
		return nil
	}
	return strings.Fields(string(out))
}

// copyTree copies with hard links where it can: nobody writes to a layout's blobs.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		if e.IsDir() {
			return os.MkdirAll(dst, 0o755)
		}
		if strings.Contains(rel, "/blobs/") && os.Link(p, dst) == nil {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(dst, b, 0o644)
	})
}
