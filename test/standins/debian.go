package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// pkg is one Debian package as the machine's own sources offer it.
type pkg struct{ name, version, sha256 string }

// run gives a command's output; what it says on stderr is in the error.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args[:min(2, len(args))], " "), err, strings.TrimSpace(errs.String()))
	}
	return out, nil
}

// closure gives the named packages and every library package that they depend
// on, however far: the pool from which ELF resolution picks.
func closure(ctx context.Context, seeds []string) ([]pkg, error) {
	out, err := run(ctx, "", "apt-cache", append([]string{"depends", "--recurse", "--important"}, seeds...)...)
	if err != nil {
		return nil, err
	}
	names := slices.Clone(seeds)
	for l := range strings.Lines(string(out)) {
		l = strings.TrimSpace(strings.TrimSuffix(l, "\n"))
		// Lines of dependency start with a blank or "|" or name a virtual package.
		if isLibrary(l) && !strings.ContainsAny(l, " <:") {
			names = append(names, l)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	// Perl's modules are no shared libraries of programs.
	names = slices.DeleteFunc(names, func(n string) bool { return strings.HasSuffix(n, "-perl") || strings.HasPrefix(n, "libperl") })
	return show(ctx, names)
}

// isLibrary tells library packages by Debian's naming.
func isLibrary(name string) bool { return strings.HasPrefix(name, "lib") || name == "zlib1g" }

func show(ctx context.Context, names []string) ([]pkg, error) {
	out, err := run(ctx, "", "apt-cache", append([]string{"show", "--no-all-versions"}, names...)...)
	if err != nil {
		return nil, err
	}
	var all []pkg
	var p pkg
	s := bufio.NewScanner(bytes.NewReader(out))
	s.Buffer(nil, 4<<20)
	flush := func() {
		if p.name != "" && p.sha256 != "" {
			all = append(all, p)
		}
		p = pkg{}
	}
	for s.Scan() {
		k, v, _ := strings.Cut(s.Text(), ": ")
		switch k {
		case "":
			flush()
		case "Package":
			p.name = v
		case "Version":
			p.version = v
		case "SHA256":
			p.sha256 = v
		}
	}
	flush()
	if err := s.Err(); err != nil {
		return nil, err
	}
	for _, n := range names {
		if !slices.ContainsFunc(all, func(p pkg) bool { return p.name == n }) {
			return nil, fmt.Errorf("no package %s in the machine's sources (apt-get update?)", n)
		}
	}
	slices.SortFunc(all, func(a, b pkg) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// unpack gives each package's files; packages are kept below cache by digest.
func unpack(ctx context.Context, cache string, pkgs []pkg) (map[string]tree, error) {
	debs := filepath.Join(cache, "debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return nil, err
	}
	if err := download(ctx, debs, pkgs); err != nil {
		return nil, err
	}
	trees := map[string]tree{}
	for _, p := range pkgs {
		dir, err := os.MkdirTemp(cache, "unpack-")
		if err != nil {
			return nil, err
		}
		_, err = run(ctx, "", "dpkg-deb", "-x", filepath.Join(debs, p.sha256+".deb"), dir)
		if err == nil {
			trees[p.name], err = load(dir)
		}
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", p.name, err)
		}
	}
	return trees, nil
}

// download fetches what is not in debs yet. apt authenticates the packages;
// the digest is compared once more, since the file's name promises it.
func download(ctx context.Context, debs string, pkgs []pkg) error {
	var missing []string
	for _, p := range pkgs {
		if _, err := os.Stat(filepath.Join(debs, p.sha256+".deb")); err != nil {
			missing = append(missing, p.name+"="+p.version)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp(debs, "get-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	args := append([]string{"-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "download"}, missing...)
	if _, err := run(ctx, dir, "apt-get", args...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	want := map[string]bool{}
	for _, p := range pkgs {
		want[p.sha256] = true
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		h := hex.EncodeToString(sum[:])
		if !want[h] {
			return fmt.Errorf("%s has a digest that apt's lists do not name", filepath.Base(f))
		}
		if err := os.Rename(f, filepath.Join(debs, h+".deb")); err != nil {
			return err
		}
	}
	return nil
}
