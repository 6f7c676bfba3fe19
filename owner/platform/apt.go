package platform

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// apt runs the machine's apt on one suite, with lists, cache and sources of its
// own: the machine's packages are neither read nor changed. What it downloads
// is authenticated by the Debian archive keyring, before our digest is compared.
type apt struct {
	dir string // private state
}

// errNotFound says that a suite has no such package or version.
var errNotFound = errors.New("not in the suite")

// openApt prepares the private state for suite below root.
func openApt(root, suite, mirror string) (*apt, error) {
	a := &apt{dir: filepath.Join(root, suite)}
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("preparing apt: %w", err)
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return nil, fmt.Errorf("preparing apt: %w (package debian-archive-keyring)", err)
	}
	line := fmt.Sprintf("deb [arch=amd64 target=Packages lang=none signed-by=%s] %s %s main\n", keyring, mirror, suite)
	for name, text := range map[string]string{"sources.list": line, "status": ""} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("preparing apt: %w", err)
		}
	}
	return a, nil
}

func (a *apt) run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	base := []string{
		"-q",
		"-o", "Dir::Etc::sourcelist=" + filepath.Join(a.dir, "sources.list"),
		"-o", "Dir::Etc::sourceparts=-",
		"-o", "Dir::Etc::preferences=-", "-o", "Dir::Etc::preferencesparts=-",
		"-o", "Dir::State=" + a.dir,
		"-o", "Dir::State::lists=" + filepath.Join(a.dir, "lists"),
		"-o", "Dir::State::status=" + filepath.Join(a.dir, "status"),
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
		"-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64",
		"-o", "APT::Sandbox::User=root", // the cache may be closed to the user _apt
		"-o", "Acquire::Retries=3",
	}
	cmd := exec.CommandContext(ctx, args[0], append(base, args[1:]...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	cmd.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", args[0], args[1], err, lastLines(errs.String(), 4))
	}
	return out.Bytes(), nil
}

func (a *apt) update(ctx context.Context) error {
	_, err := a.run(ctx, "", "apt-get", "update", "-o", "APT::Update::Error-Mode=any")
	return err
}

// record is what the suite says about one package.
type record struct{ name, version, sha256, depends string }

// show gives the newest version of a package, or the one named.
func (a *apt) show(ctx context.Context, name, version string) (record, error) {
	arg := name
	if version != "" {
		arg += "=" + version
	}
	out, err := a.run(ctx, "", "apt-cache", "show", "--no-all-versions", arg)
	if err != nil {
		if ctx.Err() != nil {
			return record{}, err
		}
		return record{}, fmt.Errorf("%s: %w", arg, errNotFound)
	}
	r := parseRecord(out)
	if r.name != name || r.version == "" || r.sha256 == "" || (version != "" && r.version != version) {
		return record{}, fmt.Errorf("%s: %w", arg, errNotFound)
	}
	return r, nil
}

// parseRecord reads the first stanza of apt-cache's output.
func parseRecord(out []byte) record {
	var r record
	s := bufio.NewScanner(bytes.NewReader(out))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		k, v, ok := strings.Cut(s.Text(), ": ")
		if s.Text() == "" {
			break
		}
		if !ok {
			continue
		}
		switch k {
		case "Package":
			r.name = v
		case "Version":
			r.version = v
		case "SHA256":
			r.sha256 = v
		case "Depends":
			r.depends = v
		}
	}
	return r
}

// download fetches one package into dir, an empty folder, and gives the file.
func (a *apt) download(ctx context.Context, dir string, p Package) (string, error) {
	if _, err := a.run(ctx, dir, "apt-get", "download", p.Name+"="+p.Version); err != nil {
		return "", fmt.Errorf("downloading %s: %w", p, err)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("downloading %s: apt left %d files", p, len(debs))
	}
	return debs[0], nil
}

// findMirror gives the URI from which this machine gets Debian. It is read at
// run time and never stored: which mirror a machine may use is its own matter.
func findMirror(ctx context.Context, codename string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(CODENAME)", "Created-By: Packages")
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("reading apt's sources: %w", err)
	}
	if m, ok := pickMirror(string(out), codename); ok {
		return m, nil
	}
	return "", fmt.Errorf("reading apt's sources: no line for the main archive of Debian %s", codename)
}

func pickMirror(targets, codename string) (string, bool) {
	for l := range strings.Lines(targets) {
		f := strings.Fields(l)
		if len(f) < 3 || f[2] != "main" {
			continue
		}
		// The suite by its name, or "stable" with that name in its Release file.
		if f[1] == codename || (len(f) > 3 && f[3] == codename) {
			return strings.TrimSuffix(f[0], "/"), true
		}
	}
	return "", false
}

// Codename gives the host's Debian release, from os-release.
func Codename() (string, error) {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("finding the Debian release: %w", err)
	}
	id, name := "", ""
	for l := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), "=")
		switch v = strings.Trim(v, `"'`); k {
		case "ID":
			id = v
		case "VERSION_CODENAME":
			name = v
		}
	}
	if id != "debian" || !plain(name) {
		return "", fmt.Errorf("finding the Debian release: this is %q %q, not a release of Debian", id, name)
	}
	return name, nil
}

func lastLines(s string, n int) string {
	ls := strings.Split(strings.TrimSpace(s), "\n")
	if len(ls) > n {
		ls = ls[len(ls)-n:]
	}
	return strings.Join(ls, "; ")
}
