package registry

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// Proxy is the image_pull_proxy table of the published data hub's configuration.
// The environment is never looked at.
type Proxy struct {
	HTTPS   string `toml:"https_proxy" json:"https_proxy,omitempty"`
	HTTP    string `toml:"http_proxy" json:"http_proxy,omitempty"`
	NoProxy string `toml:"no_proxy" json:"no_proxy,omitempty"` // comma-separated: host, .domain, address, CIDR, each with optional :port; "*"
}

// function gives http.Transport's Proxy.
func (p Proxy) function() (func(*http.Request) (*url.URL, error), error) {
	parse := func(what, s string) (*url.URL, error) {
		if s == "" {
			return nil, nil
		}
		if !strings.Contains(s, "://") {
			s = "http://" + s
		}
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5") {
			return nil, fmt.Errorf("%s is not a proxy's URL", what) // it can hold a password: not printed
		}
		return u, nil
	}
	plain, err := parse("http_proxy", p.HTTP)
	if err != nil {
		return nil, err
	}
	tls, err := parse("https_proxy", p.HTTPS)
	if err != nil {
		return nil, err
	}
	if len(p.NoProxy) > 16<<10 {
		return nil, errors.New("no_proxy is too long")
	}
	return func(r *http.Request) (*url.URL, error) {
		u := plain
		if r.URL.Scheme == "https" {
			u = tls
		}
		if u == nil || p.direct(r.URL) {
			return nil, nil
		}
		return u, nil
	}, nil
}

// direct says whether NoProxy covers u.
func (p Proxy) direct(u *url.URL) bool {
	host, port := strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	addr, addrErr := netip.ParseAddr(host)
	if host == "localhost" || addrErr == nil && addr.IsLoopback() {
		return true
	}
	for e := range strings.SplitSeq(p.NoProxy, ",") {
		e = strings.ToLower(strings.TrimSpace(e))
		if e == "" {
			continue
		}
		if e == "*" {
			return true
		}
		if pfx, err := netip.ParsePrefix(e); err == nil {
			if addrErr == nil && pfx.Contains(addr) {
				return true
			}
			continue
		}
		if h, pt, err := net.SplitHostPort(e); err == nil {
			if pt != port {
				continue
			}
			e = h
		}
		if a, err := netip.ParseAddr(strings.Trim(e, "[]")); err == nil {
			if addrErr == nil && a == addr {
				return true
			}
			continue
		}
		e = strings.TrimPrefix(e, "*")
		if strings.HasPrefix(e, ".") {
			if strings.HasSuffix(host, e) {
				return true
			}
		} else if host == e || strings.HasSuffix(host, "."+e) {
			return true
		}
	}
	return false
}
