// Package registry pulls images: a client for the part of the OCI distribution
// specification 1.1 that pulling needs (manifests, blobs), with token and basic
// authentication, private CAs, mirrors, proxies and resuming of cut blobs.
//
// Invariants: HTTPS unless the registry configuration calls a place insecure, and
// never from HTTPS down to HTTP, not by redirect nor token server; credentials go
// only to the place they are configured for; every answer is bounded in size and
// every wait in time (Timeouts), so a registry that hangs or trickles fails; what
// a digest names is given only after it was compared with it, a blob's io.EOF
// only for the right bytes. Neither environment nor home directory is read.
//
// Trust zone: shared by guest and owner. The registry and the network are
// hostile; integrity rests on digests, TLS protects credentials.
package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config is what the owner says about pulling images. The zero value pulls
// without credentials over HTTPS.
type Config struct {
	Conf       Conf     `json:"conf,omitzero"`
	ExtraRoots []string `json:"extra_roots,omitempty"` // PEM, beside Roots
	Auth       []byte   `json:"auth,omitempty"`        // containers-auth.json(5)
	Proxy      Proxy    `json:"proxy,omitzero"`
	Times      Timeouts `json:"times,omitzero"`
	// Tokens are Authorization headers that an earlier client was given (Client.Tokens).
	Tokens map[string]string `json:"tokens,omitempty"`
	// SkipHosts are not asked: they have given wrong bytes before.
	SkipHosts []string `json:"skip_hosts,omitempty"`

	// Roots gives the public certificate authorities; nil means the system's. It
	// is called once, if ever.
	Roots func() *x509.CertPool `json:"-"`
	// Now is the time certificates are judged at; nil means the system's clock.
	Now func() time.Time `json:"-"`
	// OnlyFloor says that Now is no more than a lower bound, as in a guest that has
	// seen no signed time yet: then NotBefore is not checked, NotAfter against Now.
	// An https:// proxy cannot be used with it.
	OnlyFloor bool `json:"-"`
}

// Timeouts bound every wait; zero members mean the defaults.
type Timeouts struct {
	Dial   time.Duration `json:"dial,omitempty"`   // connection, and again for TLS: 10 s
	Header time.Duration `json:"header,omitempty"` // request sent to answer's header: 20 s
	Small  time.Duration `json:"small,omitempty"`  // whole exchange for a manifest, config or token: 30 s
	// Stall is how long a blob may take for its next 64 KiB: 20 s. Only time spent
	// waiting for the network counts.
	Stall    time.Duration `json:"stall,omitempty"`
	Attempts int           `json:"attempts,omitempty"` // tries of one place without progress: 3
	Backoff  time.Duration `json:"backoff,omitempty"`  // before the second try, doubled for each further: 500 ms
}

func (t Timeouts) withDefaults() Timeouts {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&t.Dial, 10*time.Second)
	set(&t.Header, 20*time.Second)
	set(&t.Small, 30*time.Second)
	set(&t.Stall, 20*time.Second)
	set(&t.Backoff, 500*time.Millisecond)
	if t.Attempts <= 0 {
		t.Attempts = 3
	}
	return t
}

// Client pulls. It may be used by several goroutines.
type Client struct {
	conf  Conf
	keys  keychain
	times Timeouts
	skip  map[string]bool

	// The private roots are tried first: parsing the public ones takes a guest
	// tens of milliseconds, which most never need.
	havePrivate bool
	private     *http.Client
	public      func() *http.Client

	mu     sync.Mutex
	tokens map[string]string // Authorization by name of a source
}

// New checks the configuration and gives a client.
func New(cfg Config) (*Client, error) {
	if err := cfg.Conf.Check(); err != nil {
		return nil, err
	}
	keys, err := parseAuth(cfg.Auth)
	if err != nil {
		return nil, err
	}
	proxy, err := cfg.Proxy.function()
	if err != nil {
		return nil, err
	}
	private := x509.NewCertPool()
	for i, p := range cfg.ExtraRoots {
		certs, err := parsePEM(p)
		if err != nil {
			return nil, fmt.Errorf("extra root certificate %d: %w", i, err)
		}
		for _, cert := range certs {
			if cfg.OnlyFloor {
				cert = withoutBeginning(cert)
			}
			private.AddCert(cert)
		}
	}
	c := &Client{conf: cfg.Conf, keys: keys, times: cfg.Times.withDefaults(), tokens: map[string]string{}, skip: map[string]bool{}, havePrivate: len(cfg.ExtraRoots) > 0}
	for _, h := range cfg.SkipHosts {
		c.skip[h] = true
	}
	maps.Copy(c.tokens, cfg.Tokens)
	c.private = c.newHTTP(private, proxy, &cfg)
	c.public = sync.OnceValue(func() *http.Client {
		var roots *x509.CertPool // nil: the system's
		if cfg.Roots != nil {
			roots = cfg.Roots()
		}
		return c.newHTTP(roots, proxy, &cfg)
	})
	return c, nil
}

func (c *Client) newHTTP(roots *x509.CertPool, proxy func(*http.Request) (*url.URL, error), cfg *Config) *http.Client {
	if cfg.OnlyFloor {
		return &http.Client{CheckRedirect: checkRedirect, Transport: &floorTransport{hosts: map[string]*http.Transport{}, make: func(host string) *http.Transport {
			return c.newTransport(proxy, floorTLS(host, roots, cfg.Now))
		}}}
	}
	return &http.Client{CheckRedirect: checkRedirect, Transport: c.newTransport(proxy, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Time: cfg.Now})}
}

func (c *Client) newTransport(proxy func(*http.Request) (*url.URL, error), t *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  proxy,
		DialContext:            (&net.Dialer{Timeout: c.times.Dial, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:    c.times.Dial,
		ResponseHeaderTimeout:  c.times.Header,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // a digest is over the bytes as stored
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        30 * time.Second,
		ReadBufferSize:         64 << 10,
		// HTTP/1.1 only: HTTP/2 would buffer up to 4 MiB for each blob and gains
		// nothing for a few large transfers.
		TLSNextProto:    map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSClientConfig: t,
	}
}

// Tokens gives the Authorization headers in use, for Config.Tokens of another
// client for the same image: secrets, though short-lived ones.
func (c *Client) Tokens() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.tokens)
}

const maxRedirects = 5

func checkRedirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1]
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if last.URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirects from HTTPS to %s://%s", req.URL.Scheme, req.URL.Host)
	}
	if req.URL.Scheme != "https" && req.URL.Scheme != "http" {
		return fmt.Errorf("redirects to scheme %q", req.URL.Scheme)
	}
	// Go keeps the header for subdomains and other ports; a token is for one place.
	if req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
		req.Header.Del("Authorization")
	}
	return nil
}

func (c *Client) send(req *http.Request) (*http.Response, error) {
	req.Header.Set("User-Agent", "coffer")
	if req.URL.Scheme == "https" && !c.havePrivate {
		return do(c.public(), req)
	}
	resp, err := do(c.private, req)
	var unknown x509.UnknownAuthorityError
	if err != nil && errors.As(err, &unknown) {
		return do(c.public(), req)
	}
	return resp, err
}

func do(h *http.Client, req *http.Request) (*http.Response, error) {
	resp, err := h.Do(req)
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // url.Error repeats the URL, which may hold a signed query
	}
	return resp, err
}

// apiHost gives the host that serves a domain's API.
func apiHost(domain string) string {
	if domain == "docker.io" {
		return "registry-1.docker.io"
	}
	return domain
}

// get asks src for kind ("manifests", "blobs") and id, once, with authentication.
// ranges is a Range header or "". The caller closes the body.
func (c *Client) get(ctx context.Context, src Source, kind, id string, accept []string, ranges string) (*http.Response, error) {
	scheme := "https"
	if src.Insecure {
		scheme = "http"
	}
	target := scheme + "://" + apiHost(src.Ref.Domain) + "/v2/" + src.Ref.Path + "/" + kind + "/" + id
	c.mu.Lock()
	auth := c.tokens[src.Ref.Name()]
	c.mu.Unlock()
	for try := 0; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return nil, err
		}
		if len(accept) > 0 {
			req.Header.Set("Accept", strings.Join(accept, ", "))
		}
		if ranges != "" {
			req.Header.Set("Range", ranges)
		}
		if auth != "" {
			req.Header.Set("Authorization", auth)
		}
		resp, err := c.send(req)
		if err != nil {
			return nil, c.hint(err)
		}
		if resp.StatusCode == http.StatusUnauthorized && try == 0 {
			auth, err = c.authorize(ctx, src, resp)
			_ = resp.Body.Close()
			if err != nil {
				return nil, &authError{err}
			}
			c.mu.Lock()
			c.tokens[src.Ref.Name()] = auth
			c.mu.Unlock()
			continue
		}
		if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent && ranges != "" {
			return resp, nil
		}
		err = statusError(resp)
		_ = resp.Body.Close()
		return nil, err
	}
}

// authError marks what another try of the same place cannot mend.
type authError struct{ error }

func (e *authError) Unwrap() error { return e.error }

// Unauthorized says whether err is about credentials: none, or refused ones, or a
// token server that gave nothing for them.
func Unauthorized(err error) bool {
	var a *authError
	var s *StatusError
	return errors.As(err, &a) || errors.As(err, &s) && s.Status == http.StatusUnauthorized
}

// ErrPlainHTTP says that a registry has no TLS.
var ErrPlainHTTP = errors.New("it speaks plain HTTP: set insecure = true for it in the registry configuration if that is meant")

// StatusError is a registry's refusal.
type StatusError struct {
	Status  int
	Code    string // "MANIFEST_UNKNOWN", ...
	Message string
	after   time.Duration // Retry-After
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("HTTP %d %s", e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		s += ": " + e.Code
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// NotFound says whether err is a registry's "no such manifest or blob".
func NotFound(err error) bool {
	var e *StatusError
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

func statusError(resp *http.Response) *StatusError {
	e := &StatusError{Status: resp.StatusCode}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 && s <= 30 {
		e.after = time.Duration(s) * time.Second
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<10))
	if err != nil {
		return e
	}
	var doc struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(b, &doc) == nil && len(doc.Errors) > 0 {
		e.Code, e.Message = printable(doc.Errors[0].Code, 60), printable(doc.Errors[0].Message, 300)
	}
	return e
}

// printable keeps a hostile text from forging log lines.
func printable(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "..."
	}
	return s
}

// hint adds what to do to errors that users meet.
func (c *Client) hint(err error) error {
	var unknown x509.UnknownAuthorityError
	var ne net.Error
	switch {
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w (%w)", err, ErrPlainHTTP)
	case errors.As(err, &unknown):
		return fmt.Errorf("%w (put its CA into image.extra_root_certificates)", err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return fmt.Errorf("%w: does it hang?", err)
	}
	return err
}
