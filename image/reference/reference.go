// Package reference parses image references the way the container ecosystem
// writes them: [host[:port]/]path[:tag][@digest] (the "docker reference" grammar
// of the CNCF distribution project), strictly and into one normal form.
//
// Invariants: what Parse accepts prints in normal form (String) and parses to
// the same value again; no part can hold "..", a space, a control character, a
// query or a fragment, so a Reference is safe inside a URL path.
//
// Trust zone: shared by guest and owner.
package reference

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/image/digest"
)

// MaxLength is the longest reference accepted, in bytes: 255 for the name (the
// ecosystem's limit), 128 for the tag, the longest digest and separators.
const MaxLength = 255 + 1 + 128 + 1 + 7 + 128

const (
	defaultDomain  = "docker.io"
	legacyDomain   = "index.docker.io"
	officialPrefix = "library/"
	maxName        = 255
	maxTag         = 128
)

// Reference is a parsed image reference in normal form.
type Reference struct {
	Domain string        // "docker.io", "127.0.0.1:5000"
	Path   string        // "library/nginx"
	Tag    string        // "" or the tag
	Digest digest.Digest // "" or the digest
}

// Parse reads s. A name without a domain is Docker Hub's ("nginx" is
// docker.io/library/nginx); a reference without tag and digest stays without.
func Parse(s string) (Reference, error) {
	var r Reference
	if len(s) > MaxLength {
		return r, fmt.Errorf("image reference of %d bytes: more than %d", len(s), MaxLength)
	}
	fail := func(err error) (Reference, error) {
		return Reference{}, fmt.Errorf("image reference %q: %w", s, err)
	}
	rest := s
	if i := strings.IndexByte(rest, '@'); i >= 0 {
		d, err := digest.Parse(rest[i+1:])
		if err != nil {
			return fail(err)
		}
		r.Digest, rest = d, rest[:i]
	}
	// A colon after the last slash starts a tag; any other is the port's.
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		r.Tag, rest = rest[i+1:], rest[:i]
		if err := checkTag(r.Tag); err != nil {
			return fail(err)
		}
	}
	if rest == "" {
		return fail(errors.New("no name"))
	}
	r.Domain, r.Path = splitDomain(rest)
	if err := checkDomain(r.Domain); err != nil {
		return fail(err)
	}
	if err := checkPath(r.Path); err != nil {
		return fail(err)
	}
	if !strings.Contains(rest, "/") && isHexID(rest) {
		return fail(errors.New("64 hex digits are an image id, not a name"))
	}
	if n := len(r.Domain) + 1 + len(r.Path); n > maxName {
		return fail(fmt.Errorf("name of %d bytes: more than %d", n, maxName))
	}
	return r, nil
}

// splitDomain tells a registry's host from a path component: a host has a dot, a
// port or upper case, or is "localhost".
func splitDomain(name string) (domain, path string) {
	first, rest, ok := strings.Cut(name, "/")
	if !ok || (!strings.ContainsAny(first, ".:") && first != "localhost" && strings.ToLower(first) == first) {
		domain, path = defaultDomain, name
	} else {
		domain, path = first, rest
	}
	if domain == legacyDomain {
		domain = defaultDomain
	}
	if domain == defaultDomain && !strings.Contains(path, "/") {
		path = officialPrefix + path
	}
	return domain, path
}

// Name gives domain and path without tag and digest.
func (r Reference) Name() string { return r.Domain + "/" + r.Path }

// String gives the normal form.
func (r Reference) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + string(r.Digest)
	}
	return s
}

// Version is what a registry is asked for: the digest, else the tag, else
// "latest".
func (r Reference) Version() string {
	switch {
	case r.Digest != "":
		return string(r.Digest)
	case r.Tag != "":
		return r.Tag
	}
	return "latest"
}

// WithDigest gives the same name pinned to d; the tag stays, for people.
func (r Reference) WithDigest(d digest.Digest) Reference {
	r.Digest = d
	return r
}

// MarshalText gives the normal form.
func (r Reference) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText parses.
func (r *Reference) UnmarshalText(b []byte) error {
	v, err := Parse(string(b))
	if err != nil {
		return err
	}
	*r = v
	return nil
}

func checkTag(t string) error {
	if t == "" || len(t) > maxTag {
		return fmt.Errorf("tag of %d bytes: 1 to %d", len(t), maxTag)
	}
	for i := range len(t) {
		c := t[i]
		if !isAlnum(c) && c != '_' && (i == 0 || (c != '.' && c != '-')) {
			return fmt.Errorf("tag %q: character %q", t, c)
		}
	}
	return nil
}

// checkDomain accepts host names, IPv4 addresses and bracketed IPv6 addresses,
// each with an optional port.
func checkDomain(d string) error {
	host := d
	if strings.HasPrefix(d, "[") {
		end := strings.IndexByte(d, ']')
		if end < 0 {
			return fmt.Errorf("host %q: no closing bracket", d)
		}
		addr, rest := d[1:end], d[end+1:]
		if addr == "" || strings.Trim(addr, "0123456789abcdefABCDEF:") != "" {
			return fmt.Errorf("host %q: not an IPv6 address", d)
		}
		if rest == "" {
			return nil
		}
		if rest[0] != ':' {
			return fmt.Errorf("host %q: %q after the address", d, rest)
		}
		return checkPort(rest[1:])
	}
	if i := strings.IndexByte(d, ':'); i >= 0 {
		host = d[:i]
		if err := checkPort(d[i+1:]); err != nil {
			return err
		}
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("host %q: label %q", d, label)
		}
		for i := range len(label) {
			if c := label[i]; !isAlnum(c) && c != '-' {
				return fmt.Errorf("host %q: character %q", d, c)
			}
		}
	}
	return nil
}

func checkPort(p string) error {
	if p == "" || len(p) > 5 || strings.Trim(p, "0123456789") != "" {
		return fmt.Errorf("port %q: not a number", p)
	}
	return nil
}

// checkPath accepts components of lower-case letters and digits joined by ".",
// "_", "__" or dashes.
func checkPath(p string) error {
	if p == "" {
		return errors.New("no repository")
	}
	for comp := range strings.SplitSeq(p, "/") {
		if err := checkComponent(comp); err != nil {
			return fmt.Errorf("repository %q: %w", p, err)
		}
	}
	return nil
}

func checkComponent(c string) error {
	if c == "" {
		return errors.New("empty path component")
	}
	sep := "" // separators since the last letter or digit
	for i := range len(c) {
		ch := c[i]
		switch {
		case ch >= 'a' && ch <= 'z' || ch >= '0' && ch <= '9':
			switch {
			case sep == "" || sep == "." || sep == "_" || sep == "__" || strings.Trim(sep, "-") == "":
			default:
				return fmt.Errorf("component %q: separator %q", c, sep)
			}
			sep = ""
		case ch == '.' || ch == '_' || ch == '-':
			if i == 0 {
				return fmt.Errorf("component %q starts with %q", c, ch)
			}
			sep += string(ch)
		default:
			return fmt.Errorf("component %q: character %q", c, ch)
		}
	}
	if sep != "" {
		return fmt.Errorf("component %q ends with %q", c, sep)
	}
	return nil
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isHexID(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }
