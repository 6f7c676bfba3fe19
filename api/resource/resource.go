// Package resource is the contract of resource URIs:
// kbs[+<plugin>]://[host]/<segment>/...[?query], as published (SPEC.md).
//
// Invariants: the host part is kept but never used for routing, the configured
// trustee answers; segments are never empty, "." or ".."; for the plugin
// "resource" there are exactly three, of a fixed alphabet.
//
// Trust zone: all; a URI comes from images, sealed secrets and workloads and is
// untrusted text.
package resource

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync"
)

// PluginResource is the plugin of URIs without one.
const PluginResource = "resource"

const (
	maxURI      = 1024
	maxSegments = 16
)

// Compiled when first used: every process of the guest has this package.
var (
	pluginRE  = expression(`^[a-z][a-z0-9-]{0,31}$`)
	segmentRE = expression(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*$`)
	hostRE    = expression(`^[A-Za-z0-9._:\[\]-]*$`)
)

func expression(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// URI is a parsed resource URI.
type URI struct {
	Plugin string   // "resource" by default
	Host   string   // ignored for routing
	Path   []string // repository, type, tag for the plugin "resource"
	Query  string   // raw, without "?"
}

// Parse reads a URI.
func Parse(s string) (*URI, error) {
	if len(s) > maxURI {
		return nil, fmt.Errorf("resource URI: %d characters, at most %d", len(s), maxURI)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return nil, fmt.Errorf("resource URI %.80q: no scheme", s)
	}
	u := &URI{Plugin: PluginResource}
	switch {
	case scheme == "kbs":
	case strings.HasPrefix(scheme, "kbs+"):
		u.Plugin = scheme[len("kbs+"):]
	default:
		return nil, fmt.Errorf("resource URI %.80q: scheme is neither kbs nor kbs+<plugin>", s)
	}
	rest, u.Query, _ = strings.Cut(rest, "?")
	var path string
	if u.Host, path, ok = strings.Cut(rest, "/"); !ok {
		return nil, fmt.Errorf("resource URI %.80q: no path", s)
	}
	u.Path = strings.Split(path, "/")
	if err := u.Validate(); err != nil {
		return nil, fmt.Errorf("resource URI %.80q: %w", s, err)
	}
	return u, nil
}

// Validate reports the first thing in u that no zone may accept.
func (u *URI) Validate() error {
	if !pluginRE().MatchString(u.Plugin) {
		return fmt.Errorf("plugin %.40q is not a plugin's name", u.Plugin)
	}
	if !hostRE().MatchString(u.Host) {
		return errors.New("host has characters that no host has")
	}
	if u.Plugin == PluginResource && len(u.Path) != 3 {
		return fmt.Errorf("%d path segments, not repository, type and tag", len(u.Path))
	}
	if len(u.Path) == 0 || len(u.Path) > maxSegments {
		return fmt.Errorf("%d path segments, at most %d", len(u.Path), maxSegments)
	}
	for _, p := range u.Path {
		if !segmentRE().MatchString(p) {
			return fmt.Errorf("path segment %.40q is not of the alphabet A-Z a-z 0-9 _ - and, not first, dot", p)
		}
	}
	if _, err := url.ParseQuery(u.Query); err != nil || strings.ContainsAny(u.Query, "#\r\n ") {
		return errors.New("query is malformed")
	}
	return nil
}

// New gives the URI kbs:///repository/type/tag.
func New(repository, kind, tag string) (*URI, error) {
	u := &URI{Plugin: PluginResource, Path: []string{repository, kind, tag}}
	if err := u.Validate(); err != nil {
		return nil, fmt.Errorf("resource: %w", err)
	}
	return u, nil
}

// Name gives the path as one string: "repository/type/tag".
func (u *URI) Name() string { return strings.Join(u.Path, "/") }

// HTTPPath gives what follows <base>/kbs/v0 in a request, with the query.
func (u *URI) HTTPPath() string {
	p := "/" + u.Plugin + "/" + u.Name()
	if u.Query != "" {
		p += "?" + u.Query
	}
	return p
}

// String gives the URI; the plugin "resource" is left out.
func (u *URI) String() string {
	s := "kbs"
	if u.Plugin != PluginResource {
		s += "+" + u.Plugin
	}
	s += "://" + u.Host + "/" + u.Name()
	if u.Query != "" {
		s += "?" + u.Query
	}
	return s
}
