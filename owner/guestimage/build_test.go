package guestimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiplatform "github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/owner/guestimage/internal/kmod"
	"github.com/cofferproject/coffer/owner/platform"
)

func TestInitrdIsDeterministicAndVariantsDiffer(t *testing.T) {
	c := contents{variant: "release", init: []byte("init"), floor: 1234, modules: []kmod.Module{{Name: "a", ELF: []byte("A")}, {Name: "b", ELF: []byte("B")}}}
	seen := map[[32]byte]string{}
	for _, v := range []struct {
		name   string
		change func(*contents)
	}{
		{"release", func(*contents) {}},
		{"sim", func(c *contents) { c.variant = "sim" }},
		{"debug", func(c *contents) { c.debug = true }},
		{"another floor", func(c *contents) { c.floor++ }},
		{"another program", func(c *contents) { c.init = []byte("tini") }},
		{"another driver", func(c *contents) { c.drivers = map[string][]kmod.Module{"d": c.modules[:1]} }},
		{"another order", func(c *contents) { c.modules = []kmod.Module{c.modules[1], c.modules[0]} }},
	} {
		x := c
		v.change(&x)
		one, err := initrd(x)
		if err != nil {
			t.Fatal(err)
		}
		two, err := initrd(x)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, two) {
			t.Errorf("%s: two runs differ", v.name)
		}
		if other, ok := seen[sha256.Sum256(one)]; ok {
			t.Errorf("%s and %s have the same bytes", v.name, other)
		}
		seen[sha256.Sum256(one)] = v.name
	}
}

func TestGoSettingsReplaceTheUsers(t *testing.T) {
	env := append(cleanEnv([]string{"HOME=/h", "GOFLAGS=-race", "GOAMD64=v4", "CGO_ENABLED=1", "GOCACHE=/c"}), goSettings...)
	for _, want := range []string{"HOME=/h", "GOCACHE=/c", "GOFLAGS=", "GOAMD64=v1", "CGO_ENABLED=0"} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is missing from %v", want, env)
		}
	}
	for _, gone := range []string{"GOFLAGS=-race", "GOAMD64=v4", "CGO_ENABLED=1"} {
		if slices.Contains(env, gone) {
			t.Errorf("%s is still there", gone)
		}
	}
}

func TestSourceFloorFallsBackWithoutGit(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := sourceFloor(context.Background(), dir); err == nil {
		t.Error("a floor without any source for it")
	}
	p := filepath.Join(dir, floorFallback)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("1700000000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n, rev, err := sourceFloor(context.Background(), dir)
	if err != nil || n != 1700000000 || rev != "" {
		t.Errorf("got %d %q %v", n, rev, err)
	}
}

func TestChooseRefusesUnknownVariants(t *testing.T) {
	if _, err := choose([]string{"release", "relaese"}); err == nil {
		t.Error("accepted")
	}
	vs, err := choose([]string{"sim", "release"})
	if err != nil || len(vs) != 2 || vs[0].name != apiplatform.Release {
		t.Errorf("got %+v, %v", vs, err)
	}
}

// pinned gives the unpacked packages of the lock file.
func pinned(t *testing.T) *platform.Result {
	t.Helper()
	if os.Getenv("COFFER_E2E") == "" {
		t.Skip("needs the pinned packages: set COFFER_E2E=1")
	}
	cache, err := platform.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	r, err := platform.Ensure(context.Background(), platform.Options{
		Cache: cache, LockPath: filepath.Join("..", "..", platform.LockName), TempLock: true, // what is built matters here, not which kernel
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestBuild builds as often as what is to be seen takes: a build is most of a minute.
func TestBuild(t *testing.T) {
	pkgs := pinned(t)
	source, err := FindSource(".")
	if err != nil {
		t.Fatal(err)
	}
	build := func(source, out string) *Output {
		t.Helper()
		o, err := Build(context.Background(), Inputs{Source: source, Packages: pkgs, Out: out})
		if err != nil {
			t.Fatal(err)
		}
		if len(o.Bundle.Sets) == 0 || o.Platform.Images[apiplatform.Sim].Initrd == "" {
			t.Error("the build is incomplete")
		}
		return o
	}
	one := copySource(t, source) // nobody edits it meanwhile
	out := t.TempDir()
	o := build(one, out)
	if o.Unchanged {
		t.Error("the first build found nothing to do")
	}
	first := outputs(t, out)

	seen := map[refvalue.Digest]string{}
	for _, n := range apiplatform.Variants {
		s, ok := o.Bundle.Find("tpm-sim", n, 256)
		if !ok {
			t.Fatalf("no set for %s", n)
		}
		r := refvalue.Replay(s.For(1), 9)
		if other, ok := seen[r]; ok {
			t.Errorf("%s measures like %s", n, other)
		}
		seen[r] = n
	}

	if o = build(one, out); !o.Unchanged {
		t.Error("the second build had something to do")
	}
	if err := os.Remove(o.Platform.Images[apiplatform.Sim].Initrd); err != nil {
		t.Fatal(err)
	}
	if o = build(one, out); o.Unchanged {
		t.Error("a file that is gone was not made again")
	}
	same(t, "a file of it was gone", first, outputs(t, out))

	// The same whoever builds it: another folder, another build cache, another
	// environment.
	t.Setenv("GOCACHE", t.TempDir())
	t.Setenv("GOFLAGS", "-v")
	t.Setenv("TZ", "Asia/Tokyo")
	elsewhere := t.TempDir()
	build(copySource(t, one), elsewhere)
	same(t, "built elsewhere", first, outputs(t, elsewhere))
}

// same compares two builds. platform.json names the output folder nowhere, so it is
// compared too.
func same(t *testing.T, what string, one, other map[string][]byte) {
	t.Helper()
	if len(one) != len(other) {
		t.Errorf("%s: %d files, before %d", what, len(other), len(one))
	}
	for name, b := range one {
		if !bytes.Equal(b, other[name]) {
			t.Errorf("%s: %s differs", what, name)
		}
	}
}

func outputs(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string][]byte{}
	for _, e := range es {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if m[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// copySource copies what the build reads, and the revision's identity, to
// another folder.
func copySource(t *testing.T, source string) string {
	t.Helper()
	dst := t.TempDir()
	err := filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && rel != ".":
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dst, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dst, rel), b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	if git, err := filepath.Abs(filepath.Join(source, ".git")); err == nil {
		if _, err := os.Stat(git); err == nil {
			if out, err := exec.Command("git", "-c", "safe.directory=*", "clone", "-q", "--bare", "--shared", git, filepath.Join(dst, ".git")).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	return dst
}
