// Package outbound asks services that hold secrets or credentials for the trustee:
// secret stores, token endpoints, metadata services of clouds.
//
// Invariants: TLS 1.2 or newer against named or the system's authorities, and plain
// HTTP to a loopback or link-local address alone; no proxy and no redirect, since an
// answer from elsewhere is another's; every exchange is bounded in time, every answer in
// bytes; no body of an answer is in an error.
//
// Trust zone: trustee.
package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	attempts = 2
	between  = 250 * time.Millisecond
	// patience is the longest that a service's Retry-After is waited for.
	patience  = time.Second
	maxCAFile = 1 << 20
)

// Errors, for errors.Is.
var (
	// ErrAway says that the service gave no answer: it is away, or late.
	ErrAway = errors.New("no answer")
	// ErrTooMuch says that an answer was larger than any could be.
	ErrTooMuch = errors.New("an answer that is too large")
)

// Options choose a Client.
type Options struct {
	CAFile  string        // certificates (PEM) of who vouches for the service; "": the system's
	Timeout time.Duration // of one exchange
	Most    int64         // bytes of an answer
}

// Client asks services.
type Client struct {
	http *http.Client
	most int64
}

// New refuses options with a bound missing.
func New(o Options) (*Client, error) {
	if o.Timeout <= 0 || o.Most <= 0 {
		return nil, errors.New("outbound: a bound is missing")
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		b, err := readFile(o.CAFile, maxCAFile)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("ca: %s has no certificate in PEM", o.CAFile)
		}
	}
	return &Client{most: o.Most, http: &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: c, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: o.Timeout, DisableCompression: true, // a small answer cannot become a large one
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       o.Timeout,
	}}, nil
}

// CheckURL gives a service's URL: https://host[:port][/path], or http for loopback and
// link-local addresses, which is where metadata services are.
func CheckURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("not a URL") // the parser's own error repeats it
	}
	if u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("write https://HOST[:PORT]")
	}
	switch u.Scheme {
	case "https":
	case "http":
		a, err := netip.ParseAddr(u.Hostname())
		if err != nil || !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			return nil, errors.New("http is for addresses of this machine alone: use https")
		}
	default:
		return nil, fmt.Errorf("scheme %.20q is not https", u.Scheme)
	}
	return u, nil
}

// Answer is what a service has said.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do asks, and once more where the service has not answered or says that it cannot now.
// make gives a new request each time. The error is nil, of make, ErrAway or ErrTooMuch.
func (c *Client) Do(ctx context.Context, make func(context.Context) (*http.Request, error)) (*Answer, error) {
	for i := 1; ; i++ {
		req, err := make(ctx)
		if err != nil {
			return nil, err
		}
		a, err := c.once(req)
		if !(errors.Is(err, ErrAway) || err == nil && Later(a.Status)) || i == attempts {
			return a, err
		}
		wait := between
		if a != nil {
			clear(a.Body)
			if n, perr := strconv.Atoi(a.Header.Get("Retry-After")); perr == nil && n > 0 {
				wait = time.Duration(min(n, 3600)) * time.Second
			}
		}
		if wait > patience {
			return a, err
		}
		select {
		case <-ctx.Done():
			return a, errors.Join(err, fmt.Errorf("%w: %w", ErrAway, ctx.Err()))
		case <-time.After(wait):
		}
	}
}

// Later reports a status that says the same may work later.
func Later(status int) bool { return status == http.StatusTooManyRequests || status >= 500 }

func (c *Client) once(req *http.Request) (*Answer, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which may be long
		}
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, c.most+1))
	switch {
	case err != nil:
		clear(b)
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	case int64(len(b)) > c.most:
		clear(b)
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooMuch, c.most)
	}
	return &Answer{resp.StatusCode, resp.Header, b}, nil
}

// Plain shortens a service's words for an error or a record: one line, printable.
func Plain(words string) string {
	const most = 300
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(words, "?"))
	if s = strings.TrimSpace(s); len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s: more than %d bytes", path, most)
	}
	return b, err
}

const maxCredential = 16 << 10

// Credential reads a file with one word, such as a token. Each use reads it anew:
// whoever renews it replaces the file. One that everybody can read is refused.
func Credential(path string) (string, error) { return credential(path, 0o007) }

// ServiceAccountToken is Credential for a token that a kubelet projects, which is
// mode 0644 in the pod's own mount where the pod has no fsGroup. Nobody may write it
// but its owner.
func ServiceAccountToken(path string) (string, error) { return credential(path, 0o022) }

func credential(path string, forbidden os.FileMode) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("credentials: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("credentials: %w", err)
	}
	if m := st.Mode().Perm(); m&forbidden != 0 {
		return "", fmt.Errorf("credentials: %s is mode %04o, which lets others use it: take away %04o", path, m, m&forbidden)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	defer clear(b)
	if err != nil {
		return "", fmt.Errorf("credentials: %w", err)
	}
	s := strings.TrimSpace(string(b))
	if s == "" || len(b) > maxCredential || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("credentials: %s has not one word", path)
	}
	return s, nil
}
