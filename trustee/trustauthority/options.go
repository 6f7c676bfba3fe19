package trustauthority

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
	"regexp"
	"strings"
	"time"
)

const (
	// calls is how many questions are open at once. A service that hangs must not take
	// all of the KBS's own places along.
	calls          = 24
	defaultTimeout = 15 * time.Second // below the time in which the KBS must have answered
	longest        = 30 * time.Second
	maxPolicies    = 10
	maxKey         = 1 << 10 // bytes of an API key
	maxFile        = 1 << 20
)

// Options are the service's settings, by the published names where there are such.
type Options struct {
	URL    string // base_url
	APIKey string // api_key
	// Keys is where its key set is (certs_file): an https URL of the set or of what has
	// its OpenID configuration, a file:// URL, or a path.
	Keys string
	// Policies (policy_ids) are what evidence must match.
	Policies []string
	// AllowUnmatched takes a token although a policy has not matched; the result then
	// does not affirm.
	AllowUnmatched bool
	CAFile         string        // who vouches for both places (PEM); "": the system's
	Timeout        time.Duration // of one question; 0: a default
}

var policyID = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

func (o *Options) complete() error {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	switch {
	case o.Timeout < 0 || o.Timeout > longest:
		return fmt.Errorf("a timeout of %s, at most %s", o.Timeout, longest)
	case o.APIKey == "" || len(o.APIKey) > maxKey || strings.ContainsAny(o.APIKey, "\r\n\x00"):
		return errors.New("no API key, or none that can be sent")
	case o.Keys == "":
		return errors.New("nothing says where its keys are (certs_file)")
	case len(o.Policies) > maxPolicies:
		return fmt.Errorf("%d policies, at most %d", len(o.Policies), maxPolicies)
	}
	for _, p := range o.Policies {
		if !policyID.MatchString(p) {
			return fmt.Errorf("policy %.60q is no UUID", p)
		}
	}
	u, err := place(o.URL)
	if err != nil {
		return err
	}
	o.URL = u
	return nil
}

// place takes a URL that whoever listens cannot read: without TLS only on this machine.
func place(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", fmt.Errorf("%.80q is not an https URL", s)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && (ip == nil || !ip.IsLoopback()) {
		return "", fmt.Errorf("%.80q has no TLS, and is not this machine", s)
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

// client asks the service's places. It follows no redirection and reads no more than it
// was told.
type client struct{ http *http.Client }

func newClient(o *Options) (*client, error) {
	t := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: o.Timeout, MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost: calls, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
	}
	if o.CAFile != "" {
		b, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, err
		}
		if t.TLSClientConfig.RootCAs = x509.NewCertPool(); !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s: no certificate in PEM", o.CAFile)
		}
	}
	return &client{&http.Client{
		Transport: t, Timeout: o.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// do gives status and body of an answer.
func (c *client) do(ctx context.Context, method, where string, body io.Reader, header http.Header, most int64) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, where, body)
	if err != nil {
		return 0, nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "coffer-trustee")
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("an answer of more than %d bytes", most)
	}
	return resp.StatusCode, b, err
}
