package platform

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// TempLockEnv makes every run take a temporary lock where a pin is gone.
const TempLockEnv = "COFFER_TEMP_LOCK"

// Options say what Ensure may do.
type Options struct {
	Cache      string // cache folder
	LockPath   string // platform.lock.json
	Codename   string // Debian release of the host; "": ask os-release
	UpdateLock bool   // resolve everything anew and rewrite LockPath
	TempLock   bool   // where a pin is gone, resolve anew for this run alone
	Progress   func(string)
}

// Result is a complete set of unpacked packages.
type Result struct {
	Packages  []Package
	Dirs      map[string]string // package name to the folder it is unpacked in
	Changes   []Change          // what differs from the lock file as it was
	Temporary bool              // a temporary lock was used
}

// Dir gives the folder of the first package with the given role.
func (r *Result) Dir(role string) (string, Package, error) {
	for _, p := range r.Packages {
		if p.Role == role {
			return r.Dirs[p.Name], p, nil
		}
	}
	return "", Package{}, fmt.Errorf("no package with role %s", role)
}

// GoneError says that a pinned package cannot be had any more.
type GoneError struct {
	Pinned Package
	Newest Package // zero if the suite has no such package at all
}

func (e *GoneError) Error() string {
	s := fmt.Sprintf("the pinned package %s (sha256 %.16s...) is no longer in %s", e.Pinned, e.Pinned.SHA256, e.Pinned.Suite)
	if e.Newest.Name != "" {
		s += fmt.Sprintf(", which now has %s (sha256 %.16s...)", e.Newest, e.Newest.SHA256)
	}
	return s + "; --update-lock pins what there is now and prints old and new measurements, --temp-lock uses it once"
}

// CacheDir is $COFFER_CACHE, or .cache/coffer in the home folder; host/vmm looks
// in the same place.
func CacheDir() (string, error) {
	if d := os.Getenv("COFFER_CACHE"); d != "" {
		return filepath.Abs(d)
	}
	d, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w (set COFFER_CACHE or HOME)", err)
	}
	return filepath.Join(d, ".cache", "coffer"), nil
}

// Ensure makes every package that the host needs available in the cache. It
// needs the network only for what is not there yet.
func Ensure(ctx context.Context, o Options) (*Result, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Codename == "" {
		var err error
		if o.Codename, err = Codename(); err != nil {
			return nil, err
		}
	}
	unlock, err := lockDir(o.Cache)
	if err != nil {
		return nil, err
	}
	defer unlock()
	e := &ensurer{o: o, apts: map[string]*apt{}}
	return e.run(ctx)
}

type ensurer struct {
	o      Options
	apts   map[string]*apt // by suite, lists fetched
	mirror string
}

func (e *ensurer) run(ctx context.Context) (*Result, error) {
	old := &Lock{Version: LockVersion}
	b, err := os.ReadFile(e.o.LockPath)
	switch {
	case err == nil:
		if old, err = ParseLock(b); err != nil {
			return nil, err
		}
	case !errors.Is(err, os.ErrNotExist) || !e.o.UpdateLock:
		return nil, fmt.Errorf("reading lock: %w", err)
	}
	if e.o.UpdateLock {
		lock, err := e.resolveAll(ctx)
		if err != nil {
			return nil, err
		}
		if b, err = lock.Encode(); err != nil {
			return nil, err
		}
		if err := writeAtomic(e.o.LockPath, b); err != nil {
			return nil, err
		}
		r, err := e.unpackAll(ctx, lock)
		if err != nil {
			return nil, err
		}
		r.Changes = old.Changes(lock)
		return r, nil
	}
	r, err := e.unpackAll(ctx, old)
	var gone *GoneError
	if err == nil || !e.o.TempLock || !errors.As(err, &gone) {
		return r, err
	}
	return e.temporary(ctx, old)
}

// temporary replaces each pin that is gone by what its suite has now. The
// replacement is remembered in the cache, so that it is looked up once.
func (e *ensurer) temporary(ctx context.Context, old *Lock) (*Result, error) {
	path := filepath.Join(e.o.Cache, "temporary.lock.json")
	known := &Lock{}
	if b, err := os.ReadFile(path); err == nil {
		if known, err = ParseLock(b); err != nil {
			known = &Lock{}
		}
	}
	lock := &Lock{Version: LockVersion}
	for _, p := range old.Packages {
		if p.Host != "" && p.Host != e.o.Codename {
			continue
		}
		if _, err := e.unpack(ctx, p); err != nil {
			var gone *GoneError
			if !errors.As(err, &gone) || gone.Newest.Name == "" {
				return nil, err
			}
			p = gone.Newest
			for _, k := range known.Packages {
				if k.Role == p.Role && k.Suite == p.Suite && (k.Name == p.Name || k.Meta != "" && k.Meta == p.Meta) && e.cached(k) {
					p = k
				}
			}
		}
		lock.Packages = append(lock.Packages, p)
	}
	r, err := e.unpackAll(ctx, lock)
	if err != nil {
		return nil, err
	}
	b, err := lock.Encode()
	if err != nil {
		return nil, err
	}
	if err := writeAtomic(path, b); err != nil {
		return nil, err
	}
	r.Temporary, r.Changes = true, old.Changes(lock)
	return r, nil
}

func (e *ensurer) unpackAll(ctx context.Context, l *Lock) (*Result, error) {
	ps, err := l.ForHost(e.o.Codename)
	if err != nil {
		return nil, err
	}
	r := &Result{Packages: ps, Dirs: map[string]string{}}
	for _, p := range ps {
		d, err := e.unpack(ctx, p)
		if err != nil {
			return nil, err
		}
		r.Dirs[p.Name] = d
	}
	return r, nil
}

// dir is where a package is unpacked. The digest is part of the name, so that
// what was once verified is found by what it must be.
func (e *ensurer) dir(p Package) string {
	name := fmt.Sprintf("%s_%s_%.16s", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.SHA256)
	return filepath.Join(e.o.Cache, "packages", name)
}

func (e *ensurer) cached(p Package) bool {
	_, err := os.Stat(e.dir(p))
	return err == nil
}

// unpack gives the folder of p, fetching and verifying it where it is missing.
func (e *ensurer) unpack(ctx context.Context, p Package) (string, error) {
	dst := e.dir(p)
	if e.cached(p) {
		return dst, nil
	}
	a, err := e.apt(ctx, p.Suite)
	if err != nil {
		return "", err
	}
	r, err := a.show(ctx, p.Name, p.Version)
	if err != nil || r.sha256 != p.SHA256 {
		if err != nil && !errors.Is(err, errNotFound) {
			return "", err
		}
		gone := &GoneError{Pinned: p}
		if n, err := e.resolve(ctx, want{p.Role, p.Host, p.Suite, nameToResolve(p), p.Meta != ""}); err == nil {
			gone.Newest = n
		}
		return "", gone
	}
	e.o.Progress(fmt.Sprintf("fetching %s (%s), because it is not in the cache", p, p.Suite))
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return "", fmt.Errorf("unpacking %s: %w", p, err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dst), ".new-")
	if err != nil {
		return "", fmt.Errorf("unpacking %s: %w", p, err)
	}
	defer os.RemoveAll(tmp)
	deb, err := a.download(ctx, tmp, p)
	if err != nil {
		return "", err
	}
	sum, err := fileSHA256(deb)
	if err != nil {
		return "", fmt.Errorf("unpacking %s: %w", p, err)
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("unpacking %s: sha256 is %s, the lock says %s", p, sum, p.SHA256)
	}
	root := filepath.Join(tmp, "root")
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpacking %s: %w: %s", p, err, lastLines(string(out), 2))
	}
	if err := os.Rename(root, dst); err != nil {
		return "", fmt.Errorf("unpacking %s: %w", p, err)
	}
	return dst, nil
}

func nameToResolve(p Package) string {
	if p.Meta != "" {
		return p.Meta
	}
	return p.Name
}

// apt gives the private apt of a suite with fresh lists.
func (e *ensurer) apt(ctx context.Context, suite string) (*apt, error) {
	if a, ok := e.apts[suite]; ok {
		return a, nil
	}
	if e.mirror == "" {
		var err error
		if e.mirror, err = findMirror(ctx, e.o.Codename); err != nil {
			return nil, err
		}
	}
	a, err := openApt(filepath.Join(e.o.Cache, "apt"), suite, e.mirror)
	if err != nil {
		return nil, err
	}
	e.o.Progress("reading the package list of " + suite)
	if err := a.update(ctx); err != nil {
		return nil, fmt.Errorf("reading the package list of %s: %w", suite, err)
	}
	e.apts[suite] = a
	return a, nil
}

func (e *ensurer) resolveAll(ctx context.Context) (*Lock, error) {
	l := &Lock{Version: LockVersion}
	for _, w := range wanted {
		p, err := e.resolve(ctx, w)
		if err != nil {
			return nil, fmt.Errorf("resolving %s in %s: %w", w.name, w.suite, err)
		}
		l.Packages = append(l.Packages, p)
	}
	return l, nil
}

// resolve gives the newest version of a package. A meta package stands for the
// first package that it depends on: the kernel's name carries its ABI.
func (e *ensurer) resolve(ctx context.Context, w want) (Package, error) {
	a, err := e.apt(ctx, w.suite)
	if err != nil {
		return Package{}, err
	}
	r, err := a.show(ctx, w.name, "")
	if err != nil {
		return Package{}, err
	}
	p := Package{Role: w.role, Measured: w.role != RoleEmulator, Host: w.host, Suite: w.suite}
	if w.meta {
		p.Meta = w.name
		dep, _, _ := strings.Cut(r.depends, ",")
		dep, _, _ = strings.Cut(strings.TrimSpace(dep), " ")
		if !plain(dep) {
			return Package{}, fmt.Errorf("%s depends on nothing that can be used", w.name)
		}
		if r, err = a.show(ctx, dep, ""); err != nil {
			return Package{}, err
		}
	}
	p.Name, p.Version, p.SHA256 = r.name, r.version, r.sha256
	return p, p.validate()
}

// lockDir makes dir and holds it against other runs until the function given
// back is called.
func lockDir(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening cache: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening cache: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking cache: %w", err)
	}
	return func() { f.Close() }, nil
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func writeAtomic(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
