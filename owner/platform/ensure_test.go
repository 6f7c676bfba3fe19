package platform

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func pinned(t *testing.T) (*fakeArchive, Options) {
	t.Helper()
	a := newArchive(t)
	o := Options{Cache: t.TempDir(), LockPath: filepath.Join(t.TempDir(), LockName), Codename: "bookworm"}
	up := o
	up.UpdateLock = true
	r, err := Ensure(context.Background(), up)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Changes) != len(wanted) {
		t.Fatalf("%d changes from nothing, want %d", len(r.Changes), len(wanted))
	}
	return a, o
}

func TestEnsureFromCacheNeedsNoApt(t *testing.T) {
	a, o := pinned(t)
	before := a.calls()
	r, err := Ensure(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if a.calls() != before {
		t.Error("apt was asked although everything is cached")
	}
	dir, p, err := r.Dir(RoleKernel)
	if err != nil || p.Name != "linux-image-6.12.1-cloud-amd64" || p.Meta != "linux-image-cloud-amd64" || !p.Measured {
		t.Fatalf("kernel is %+v, %v", p, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "content")); err != nil || string(b) != "kernel 1\n" {
		t.Errorf("unpacked %q, %v", b, err)
	}
	for _, p := range r.Packages {
		if p.Host == "trixie" {
			t.Errorf("%s is for another release", p)
		}
	}
}

func TestEnsureRefusesWhatIsGone(t *testing.T) {
	a, o := pinned(t)
	a.newKernel()
	o.Cache = t.TempDir() // a fresh machine
	_, err := Ensure(context.Background(), o)
	var gone *GoneError
	if !errors.As(err, &gone) {
		t.Fatalf("got %v", err)
	}
	for _, s := range []string{"6.12.1-1", "6.12.2-1", "--update-lock", "--temp-lock", "bookworm-backports"} {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not name %s", err, s)
		}
	}
}

func TestTemporaryLock(t *testing.T) {
	a, o := pinned(t)
	lock, err := os.ReadFile(o.LockPath)
	if err != nil {
		t.Fatal(err)
	}
	o.TempLock = true
	if r, err := Ensure(context.Background(), o); err != nil || r.Temporary {
		t.Fatalf("nothing is gone, but temporary = %v, %v", r.Temporary, err)
	}
	a.newKernel()
	o.Cache = t.TempDir()
	for range 2 { // the second run is served from the cache
		r, err := Ensure(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		_, p, err := r.Dir(RoleKernel)
		if err != nil || p.Version != "6.12.2-1" || !r.Temporary {
			t.Errorf("kernel is %s, temporary %v, %v", p, r.Temporary, err)
		}
	}
	if now, err := os.ReadFile(o.LockPath); err != nil || string(now) != string(lock) {
		t.Error("the lock file was changed")
	}
}

func TestUpdateLockNamesChanges(t *testing.T) {
	a, o := pinned(t)
	a.newKernel()
	o.UpdateLock = true
	r, err := Ensure(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Changes) != 1 || r.Changes[0].Old.Version != "6.12.1-1" || r.Changes[0].New.Version != "6.12.2-1" {
		t.Errorf("changes are %+v", r.Changes)
	}
	o.UpdateLock = false
	if _, err := Ensure(context.Background(), o); err != nil {
		t.Errorf("with the new lock: %v", err)
	}
}

func TestEnsureRefusesOtherBytes(t *testing.T) {
	_, o := pinned(t)
	o.Cache = t.TempDir()
	t.Setenv("FAKE_TAMPER", "ovmf")
	if _, err := Ensure(context.Background(), o); err == nil || !strings.Contains(err.Error(), "sha256") {
		t.Errorf("got %v", err)
	}
	left, err := filepath.Glob(filepath.Join(o.Cache, "packages", ".new-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if m, err := filepath.Glob(filepath.Join(o.Cache, "packages", "ovmf*")); err != nil || len(m) != 0 {
		t.Errorf("unpacked all the same: %v, %v", m, err)
	}
}

func TestConcurrentRuns(t *testing.T) {
	_, o := pinned(t)
	o.Cache = t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := Ensure(context.Background(), o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestUnknownHost(t *testing.T) {
	_, o := pinned(t)
	o.Codename = "sid"
	if _, err := Ensure(context.Background(), o); err == nil || !strings.Contains(err.Error(), "sid") {
		t.Errorf("got %v", err)
	}
}

func TestParseLockRefuses(t *testing.T) {
	good := `{"version":1,"packages":[{"role":"firmware","measured":true,"suite":"bookworm","package":"ovmf","package_version":"1","sha256":"` + strings.Repeat("ab", 32) + `"}]}`
	if _, err := ParseLock([]byte(good)); err != nil {
		t.Fatalf("the unchanged lock: %v", err)
	}
	for _, change := range [][2]string{
		{`"version":1,`, `"version":2,`},
		{`"role":"firmware"`, `"role":"other"`},
		{`"measured":true`, `"measured":false`},
		{`"package":"ovmf"`, `"package":"../ovmf"`},
		{`"package":"ovmf"`, `"package":"-oDir=x"`},
		{`"package_version":"1"`, `"package_version":"1 2"`},
		{`"suite":"bookworm"`, `"suite":""`},
		{`abab"`, `ab"`},
		{`"role"`, `"roles"`},
		{`]}`, `]}{}`},
	} {
		if _, err := ParseLock([]byte(strings.Replace(good, change[0], change[1], 1))); err == nil {
			t.Errorf("%s: accepted", change[1])
		}
	}
}

func TestPickMirror(t *testing.T) {
	const targets = "http://s.example/debian-security bookworm-security main bookworm-security\n" +
		"http://m.example/debian/ stable non-free bookworm\nhttp://m.example/debian/ stable main bookworm\n"
	if m, ok := pickMirror(targets, "bookworm"); !ok || m != "http://m.example/debian" {
		t.Errorf("picked %q", m)
	}
	if m, ok := pickMirror(targets, "trixie"); ok {
		t.Errorf("picked %q for a release that is not there", m)
	}
}

// The lock file of the source tree must be usable.
func TestCommittedLock(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", LockName))
	if err != nil {
		t.Fatal(err)
	}
	l, err := ParseLock(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"bookworm", "trixie"} {
		if ps, err := l.ForHost(host); err != nil || len(ps) != 8 {
			t.Errorf("%s: %d packages, %v", host, len(ps), err)
		}
	}
}
