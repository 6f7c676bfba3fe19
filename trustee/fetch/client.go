package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
)

// client asks places that nobody vouches for beyond their certificates: what comes
// is bounded, and no redirection is followed.
type client struct {
	http *http.Client
}

const maxHeader = 64 << 10 // issuer chains are in headers

// newClient makes a client; own: for the vendor's own places.
func newClient(o Options, own bool) (*client, error) {
	t := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: o.Timeout, ResponseHeaderTimeout: o.Timeout,
		MaxResponseHeaderBytes: maxHeader, MaxIdleConns: 2, IdleConnTimeout: time.Minute, DisableCompression: true, ForceAttemptHTTP2: true,
	}
	if o.Proxy != "" {
		u, err := url.Parse(o.Proxy)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, errors.New("the proxy is not the URL of an HTTP proxy")
		}
		t.Proxy = http.ProxyURL(u)
	}
	if o.CAFile != "" {
		b, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if system, err := x509.SystemCertPool(); err == nil && own {
			t.TLSClientConfig.RootCAs = system
		}
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s: no certificate in PEM", o.CAFile)
		}
	}
	return &client{&http.Client{
		Transport: t, Timeout: o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// placeOf checks a place and gives it with a slash at its end. Documents prove
// themselves, but whoever listens learns which chips attest: without TLS only on
// this machine.
func placeOf(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", errors.New("the place is not an https URL without user, query and fragment")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", errors.New("the place is on another machine and has no TLS")
	}
	return strings.TrimSuffix(u.String(), "/") + "/", nil
}

// get asks for one origin. Without an outcome there is an item.
func (w *worker) get(ctx context.Context, origin string, issuers []byte) (*collateral.Item, answer) {
	where := origin
	if w.base != "" {
		where = w.v.locate(w.base, origin)
	}
	failed := func(err error) (*collateral.Item, answer) { return nil, answer{outcome: OutcomeFailed, err: err} }
	resp, err := w.request(ctx, where)
	if err != nil && ctx.Err() == nil && w.base == "" && w.v.plain != nil && w.v.plain(origin) {
		var plain error
		if resp, plain = w.request(ctx, "http://"+strings.TrimPrefix(where, "https://")); plain == nil {
			err = nil
		}
	}
	if err != nil {
		return failed(err)
	}
	defer resp.Body.Close()
	switch s := resp.StatusCode; {
	case s == http.StatusTooManyRequests || s == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		return nil, answer{outcome: OutcomeLimited, err: fmt.Errorf("status %d", s), after: retryAfter(resp.Header.Get("Retry-After"), w.f.cfg.Now())}
	case s == http.StatusNotFound || s == http.StatusBadRequest || s == http.StatusGone:
		return nil, answer{outcome: OutcomeAbsent, err: fmt.Errorf("status %d", s)}
	case s != http.StatusOK:
		return failed(fmt.Errorf("status %d", s))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(2*w.v.most)+1)) // hexadecimal is twice as long
	switch {
	case err != nil:
		return failed(err)
	case len(body) > 2*w.v.most:
		return nil, answer{outcome: OutcomeRefused, err: fmt.Errorf("more than %d bytes", 2*w.v.most)}
	}
	it, err := w.v.itemOf(origin, resp.Header, body, w.f.cfg.Now())
	if err != nil {
		return nil, answer{outcome: OutcomeRefused, err: err}
	}
	if len(it.Chain) == 0 {
		it.Chain = issuers
	}
	return it, answer{}
}

func (w *worker) request(ctx context.Context, where string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "coffer-trustee")
	resp, err := w.client.http.Do(req)
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without the proxy's URL, which may hold a password
	}
	return resp, err
}

// retryAfter reads the header of that name (RFC 9110, 10.2.3); 0: nothing that
// can be read.
func retryAfter(s string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32); err == nil {
		d = time.Duration(n) * time.Second
	} else if t, err := http.ParseTime(s); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
