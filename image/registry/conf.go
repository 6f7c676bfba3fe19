package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/image/reference"
)

// Conf is the part of containers-registries.conf(5), version 2, that decides
// where an image comes from. It is the registry_config table of the published
// data hub's configuration. unqualified-search-registries is read and has no
// effect: every reference here is qualified already (Docker Hub's by rule).
type Conf struct {
	UnqualifiedSearch []string   `toml:"unqualified-search-registries" json:"unqualified-search-registries,omitempty"`
	Registries        []Registry `toml:"registry" json:"registry,omitempty"`
}

// Registry says how references that start with Prefix are fetched.
type Registry struct {
	Prefix             string   `toml:"prefix" json:"prefix,omitempty"`     // "host[:port][/path]" or "*.host"; "": Location
	Location           string   `toml:"location" json:"location,omitempty"` // replaces Prefix; "": Prefix
	Insecure           bool     `toml:"insecure" json:"insecure,omitempty"` // plain HTTP
	Blocked            bool     `toml:"blocked" json:"blocked,omitempty"`
	MirrorByDigestOnly bool     `toml:"mirror-by-digest-only" json:"mirror-by-digest-only,omitempty"`
	Mirrors            []Mirror `toml:"mirror" json:"mirror,omitempty"`
}

// Mirror is asked before the registry itself.
type Mirror struct {
	Location       string `toml:"location" json:"location"`
	Insecure       bool   `toml:"insecure" json:"insecure,omitempty"`
	PullFromMirror string `toml:"pull-from-mirror" json:"pull-from-mirror,omitempty"` // "", "all", "digest-only", "tag-only"
}

const (
	maxRegistries = 256
	maxMirrors    = 32
)

// Check refuses a configuration that cannot mean anything.
func (c *Conf) Check() error {
	if len(c.Registries) > maxRegistries {
		return fmt.Errorf("registry configuration: %d registries: more than %d", len(c.Registries), maxRegistries)
	}
	seen := map[string]bool{}
	for i := range c.Registries {
		r := &c.Registries[i]
		if err := r.check(); err != nil {
			return fmt.Errorf("registry configuration: registry %d: %w", i, err)
		}
		if seen[r.prefix()] {
			return fmt.Errorf("registry configuration: prefix %q appears twice", r.prefix())
		}
		seen[r.prefix()] = true
	}
	return nil
}

func (r *Registry) check() error {
	if r.prefix() == "" {
		return errors.New("neither prefix nor location")
	}
	if err := checkLocation(strings.TrimPrefix(r.prefix(), "*.")); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	if r.Location != "" {
		if err := checkLocation(r.Location); err != nil {
			return fmt.Errorf("location: %w", err)
		}
	}
	if len(r.Mirrors) > maxMirrors {
		return fmt.Errorf("%d mirrors: more than %d", len(r.Mirrors), maxMirrors)
	}
	for i := range r.Mirrors {
		if err := checkLocation(r.Mirrors[i].Location); err != nil {
			return fmt.Errorf("mirror %d: %w", i, err)
		}
		if !slices.Contains([]string{"", "all", "digest-only", "tag-only"}, r.Mirrors[i].PullFromMirror) {
			return fmt.Errorf("mirror %d: pull-from-mirror %.40q", i, r.Mirrors[i].PullFromMirror)
		}
	}
	return nil
}

// checkLocation accepts what can stand at the start of a reference.
func checkLocation(l string) error {
	if l == "" {
		return errors.New("empty")
	}
	if strings.Contains(l, "://") {
		return fmt.Errorf("%.200q has a scheme; HTTP is chosen with insecure = true", l)
	}
	probe := l
	if !strings.Contains(l, "/") {
		probe += "/x"
	}
	r, err := reference.Parse(probe)
	if err != nil {
		return err
	}
	if !onHost(r, l) {
		return fmt.Errorf("%.200q does not start with a host (a name with a dot or a port, or localhost)", l)
	}
	return nil
}

// onHost says whether r lies on the host that location starts with. The grammar
// of references reads a lone word as a name on Docker Hub.
func onHost(r reference.Reference, location string) bool {
	host, _, _ := strings.Cut(location, "/")
	return r.Domain == host || r.Domain == "docker.io" && host == "index.docker.io"
}

func (r *Registry) prefix() string {
	if r.Prefix != "" {
		return r.Prefix
	}
	return r.Location
}

// Source is one place to fetch an image from.
type Source struct {
	Ref      reference.Reference // rewritten: its domain is the host to ask
	Insecure bool
}

// Sources gives where ref is to be looked for, in order: the mirrors of the
// registry with the longest matching prefix, then its location. Without a match
// it is ref's own domain over HTTPS.
func (c *Conf) Sources(ref reference.Reference) ([]Source, error) {
	full := ref.String()
	var best *Registry
	for i := range c.Registries {
		r := &c.Registries[i]
		if matchLen(full, r.prefix()) > 0 && (best == nil || len(r.prefix()) > len(best.prefix())) {
			best = r
		}
	}
	if best == nil {
		return []Source{{Ref: ref}}, nil
	}
	if best.Blocked {
		return nil, fmt.Errorf("registry configuration blocks %q (prefix %q)", full, best.prefix())
	}
	n := matchLen(full, best.prefix())
	var out []Source
	for i := range best.Mirrors {
		m := &best.Mirrors[i]
		byDigest := ref.Digest != ""
		if !byDigest && (best.MirrorByDigestOnly || m.PullFromMirror == "digest-only") || byDigest && m.PullFromMirror == "tag-only" {
			continue
		}
		s, err := rewrite(full, n, m.Location)
		if err != nil {
			return nil, err
		}
		out = append(out, Source{Ref: s, Insecure: m.Insecure})
	}
	own := Source{Ref: ref, Insecure: best.Insecure}
	if best.Location != "" && best.Location != best.Prefix {
		s, err := rewrite(full, n, best.Location)
		if err != nil {
			return nil, err
		}
		own.Ref = s
	}
	return append(out, own), nil
}

// matchLen gives how many bytes at the start of full the prefix stands for, 0 for
// no match. A prefix matches from position 0 only and ends at a boundary, so
// that "example.com" is neither "registry.example.com" nor "example.com.evil".
func matchLen(full, prefix string) int {
	n := len(prefix)
	if sub, ok := strings.CutPrefix(prefix, "*"); ok {
		host, _, _ := strings.Cut(full, "/")
		name := host
		if i := strings.LastIndexByte(host, ':'); i > 0 && !strings.Contains(sub, ":") {
			name = host[:i] // a wildcard without a port covers every port
		}
		if !strings.HasSuffix(name, sub) || len(name) == len(sub) {
			return 0
		}
		return len(host)
	}
	if !strings.HasPrefix(full, prefix) {
		return 0
	}
	if len(full) > n && !strings.ContainsRune("/:@", rune(full[n])) {
		return 0
	}
	return n
}

func rewrite(full string, n int, location string) (reference.Reference, error) {
	r, err := reference.Parse(location + full[n:])
	if err == nil && !onHost(r, location) {
		err = fmt.Errorf("leaves no repository of %s", full)
	}
	if err != nil {
		return r, fmt.Errorf("registry configuration: location %q: %w", location, err)
	}
	return r, nil
}
