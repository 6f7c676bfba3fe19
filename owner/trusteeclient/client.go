// Package trusteeclient is the owner's side of the trustee's administration API.
//
// Invariants: TLS is verified against the given CA alone, never the system's;
// every request carries a token of its own, valid for seconds and for this
// method and path only, or a bearer token that the trustee has issued; every call ends when its context does, and after a
// minute at the latest; refusals come back as *denial.Denial where the trustee
// sent one.
//
// Trust zone: owner.
package trusteeclient

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
)

const (
	callTimeout = time.Minute
	maxAnswer   = 64 << 20 // a collateral bundle
)

// Client speaks to one trustee. It is safe for concurrent use.
type Client struct {
	base *url.URL
	http *http.Client
	// token gives the token of one request.
	token func(method, path string) (string, error)
}

// Error is an answer of the trustee that is not success.
type Error struct {
	Status int
	Info   kbs.ErrorInfo
}

// Error gives the trustee's own words.
func (e *Error) Error() string {
	return fmt.Sprintf("trustee answered %d: %s", e.Status, e.Info.Detail)
}

// IsNotFound reports whether the trustee says that a thing does not exist.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// IsConflict reports whether a thing of that name exists with other content.
func IsConflict(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusConflict
}

// Dial makes a client and checks that the trustee answers and accepts the key.
// rawURL is the server's URL (https://host:port); caPEM its CA; adminKey the
// Ed25519 key of LoadAdminKey.
func Dial(ctx context.Context, rawURL string, caPEM []byte, adminKey crypto.Signer) (*Client, error) {
	if adminKey == nil {
		return nil, errors.New("trustee client: no admin key")
	}
	return dial(ctx, rawURL, caPEM, func(method, path string) (string, error) {
		return trusteeapi.SignToken(adminKey, method, path, time.Now())
	})
}

// DialBearer is Dial with a bearer token in the place of the key.
func DialBearer(ctx context.Context, rawURL string, caPEM []byte, token string) (*Client, error) {
	if token == "" {
		return nil, errors.New("trustee client: no bearer token")
	}
	return dial(ctx, rawURL, caPEM, func(string, string) (string, error) { return token, nil })
}

func dial(ctx context.Context, rawURL string, caPEM []byte, token func(method, path string) (string, error)) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("trustee URL: %w", err)
	}
	if u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("trustee URL %.120q is not of the form https://host:port", rawURL)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("trustee CA: no certificate in PEM")
	}
	u.Path = ""
	c := &Client{base: u, token: token, http: &http.Client{
		Timeout: callTimeout,
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
			MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("trustee redirects, which it never does")
		},
	}}
	if _, err := c.Info(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close lets idle connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Info describes the server.
func (c *Client) Info(ctx context.Context) (*trusteeapi.Info, error) {
	return get[trusteeapi.Info](ctx, c, "/info", nil)
}

// raw sends one request to a path below /coffer/v1, whose segments are escaped.
func (c *Client) raw(ctx context.Context, method, path string, query url.Values, contentType string, body []byte) ([]byte, error) {
	u := *c.base
	u.Path = trusteeapi.PathPrefix + path
	u.RawQuery = query.Encode()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("trustee: %w", err)
	}
	tok, err := c.token(method, u.EscapedPath())
	if err != nil {
		return nil, fmt.Errorf("trustee: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	if len(body) > 0 {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("trustee: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("trustee: reading answer: %w", err)
	}
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("trustee: answer of more than %d bytes", maxAnswer)
	}
	if resp.StatusCode/100 != 2 {
		return nil, failure(resp.StatusCode, b)
	}
	return b, nil
}

// failure makes a Denial of an answer that carries a reason, else an Error.
func failure(status int, body []byte) error {
	e := &Error{Status: status}
	if json.Unmarshal(body, &e.Info) != nil || e.Info.Detail == "" {
		e.Info.Detail = http.StatusText(status)
	}
	if e.Info.Reason != "" {
		return fmt.Errorf("%w: %w", e, &denial.Denial{
			Reason: denial.Reason(e.Info.Reason), Component: "trustee", Claim: e.Info.Claim, RecordID: e.Info.Record, Detail: e.Info.Detail,
		})
	}
	return e
}

func (c *Client) send(ctx context.Context, method, path string, in any) ([]byte, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("trustee: %w", err)
	}
	return c.raw(ctx, method, path, nil, "application/json", body)
}

func post[T any](ctx context.Context, c *Client, path string, in any) (*T, error) {
	b, err := c.send(ctx, http.MethodPost, path, in)
	if err != nil {
		return nil, err
	}
	return decode[T](b)
}

func put[T any](ctx context.Context, c *Client, path string, in any) (*T, error) {
	b, err := c.send(ctx, http.MethodPut, path, in)
	if err != nil {
		return nil, err
	}
	return decode[T](b)
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (*T, error) {
	b, err := c.raw(ctx, http.MethodGet, path, query, "", nil)
	if err != nil {
		return nil, err
	}
	return decode[T](b)
}

func (c *Client) del(ctx context.Context, path string) error {
	_, err := c.raw(ctx, http.MethodDelete, path, nil, "", nil)
	return err
}

func decode[T any](b []byte) (*T, error) {
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("trustee: decoding answer: %w", err)
	}
	return v, nil
}
