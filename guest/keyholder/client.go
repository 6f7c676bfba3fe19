package keyholder

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/guest/clock"
)

// Component names the key holder in denials of its own.
const Component = "guest-keyholder"

// Reasons of denials that the guest itself gives.
const (
	ReasonKBSUntrusted  denial.Reason = "kbs-certificate-untrusted"
	ReasonNotInPolicy   denial.Reason = "layer-key-not-in-policy"
	ReasonNoTrustee     denial.Reason = "no-trustee"
	ReasonKBSRefused    denial.Reason = "kbs-refused"
	ReasonResourceGone  denial.Reason = "resource-not-found"
	ReasonWrongProtocol denial.Reason = "kbs-protocol"
	// ReasonChannelNotBound: initdata wants evidence to cover the connection, and it cannot.
	ReasonChannelNotBound denial.Reason = "channel-not-bound"
	// ReasonIdentityNotListed: a workload asks for an identity that initdata does not list.
	ReasonIdentityNotListed denial.Reason = "identity-not-listed"
	// ReasonIdentityKey: the evidence covers no key that a certificate could be for.
	ReasonIdentityKey denial.Reason = "identity-key-not-confirmed"
)

const (
	requestTimeout = 20 * time.Second
	userAgent      = "coffer-guest"
	maxCAs         = 16
	tlsTimeout     = 10 * time.Second
	maxHeader      = 64 << 10
)

var dialer = &net.Dialer{Timeout: 5 * time.Second}

// client speaks to one KBS.
type client struct {
	base     *url.URL
	roots    []*x509.Certificate
	clock    *clock.Clock
	http     *http.Client
	tls      *tls.Config
	log      *slog.Logger
	initdata []byte
	tee      *future[Attester]
	devices  *devices
	life     context.Context // of the process: attestations outlive who asked

	attestTimeout time.Duration

	bindChannel bool     // initdata wants evidence to cover the connection
	identities  []string // that workloads may ask for, as initdata lists them

	mu      sync.Mutex
	current *session
	flight  *future[*session]
	stopped bool
	running sync.WaitGroup // attestations, forgotten ones too
	// untimed are the trustee's certificates on connections that were made before
	// there was a signed time to check them by.
	untimed [][]*x509.Certificate
}

// maxUntimed bounds untimed: of more connections the certificates are not kept.
const maxUntimed = 8

// newClient refuses anything but https and a CA of its own.
func newClient(base, caPEM string, clk *clock.Clock, log *slog.Logger) (*client, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("trustee URL: %w", err)
	}
	if u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("trustee URL %.100q is not of the form https://host[:port][/path]", base)
	}
	roots, err := parseCAs(caPEM)
	if err != nil {
		return nil, fmt.Errorf("trustee CA: %w", err)
	}
	c := &client{base: u, roots: roots, clock: clk, log: log, devices: &devices{log: log}}
	c.tls = &tls.Config{
		MinVersion: tls.VersionTLS12,
		// The verification of crypto/tls believes the wall clock; ours,
		// below, is complete and follows the time rule.
		InsecureSkipVerify: true, //nolint:gosec // verified by VerifyConnection
		VerifyConnection:   c.verifyConnection,
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    tlsTimeout,
			MaxIdleConns:           4,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true,
			TLSClientConfig:        c.tls,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func parseCAs(text string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" || len(out) == maxCAs {
			return nil, fmt.Errorf("PEM block %.40q, or more than %d certificates", b.Type, maxCAs)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("initdata has no CA certificate for the trustee; the guest trusts no other")
	}
	return out, nil
}

func (c *client) verifyConnection(s tls.ConnectionState) error {
	timed := c.clock.Signed()
	if !timed {
		c.mu.Lock()
		if len(c.untimed) <= maxUntimed {
			c.untimed = append(c.untimed, s.PeerCertificates)
		}
		c.mu.Unlock()
	}
	err := c.verifyServer(s.PeerCertificates)
	if err == nil && !timed && c.clock.Signed() {
		err = c.verifyServer(s.PeerCertificates) // the time came meanwhile
	}
	if err == nil {
		return nil
	}
	return &denial.Denial{
		Reason: ReasonKBSUntrusted, Component: Component, Claim: "TLS certificate of " + c.base.Host,
		Expected: "a chain to the CA in initdata", Source: "initdata", Detail: err.Error(),
	}
}

func (c *client) verifyServer(chain []*x509.Certificate) error {
	return c.clock.VerifyChain(chain, c.roots, c.base.Hostname(), x509.ExtKeyUsageServerAuth)
}

// checkServersAgain holds the connections that are there to the time that is known
// now. Where one does not pass, all are closed: the next one's handshake says why.
func (c *client) checkServersAgain() {
	c.mu.Lock()
	chains := c.untimed
	c.untimed = nil
	c.mu.Unlock()
	good := len(chains) <= maxUntimed
	for _, chain := range chains {
		good = good && c.verifyServer(chain) == nil
	}
	if !good {
		c.http.CloseIdleConnections()
	}
}

// errUnavailable marks a failure that may pass: the trustee was not reached, or
// said that it is busy.
type unavailableError struct{ err error }

func (e *unavailableError) Error() string { return "trustee not available: " + e.err.Error() }
func (e *unavailableError) Unwrap() error { return e.err }

// statusError is an answer other than 200 that is no denial.
type statusError struct {
	code int
	info kbs.ErrorInfo
}

func (e *statusError) Error() string {
	d := e.info.Detail
	if len(d) > 300 {
		d = d[:300]
	}
	return fmt.Sprintf("trustee answered %d: %s", e.code, strings.Map(printable, d))
}

func printable(r rune) rune {
	if r < 0x20 || r == 0x7f {
		return ' '
	}
	return r
}

// do sends one request and gives the body of a 200 answer, at most limit bytes. most is
// for the whole of it: some requests wait at the trustee.
func (c *client) do(ctx context.Context, hc *http.Client, most time.Duration, method, path string, body []byte, limit int64, header http.Header) ([]byte, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	u := strings.TrimRight(c.base.String(), "/") + kbs.PathPrefix + path
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("asking trustee: %w", err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", userAgent)
	if body != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	rsp, err := hc.Do(req)
	if err != nil {
		if d, ok := denial.As(err); ok {
			return nil, nil, d
		}
		return nil, nil, &unavailableError{err}
	}
	defer rsp.Body.Close()
	if rsp.StatusCode != http.StatusOK {
		limit = kbs.MaxError
	}
	b, err := io.ReadAll(io.LimitReader(rsp.Body, limit+1))
	if err != nil {
		return nil, nil, &unavailableError{err}
	}
	if int64(len(b)) > limit {
		return nil, nil, c.protocol("answer longer than %d bytes", limit)
	}
	if rsp.StatusCode == http.StatusOK {
		return b, rsp.Header, nil
	}
	return nil, nil, answerError(rsp.StatusCode, rsp.Header, b)
}

// answerError turns an error answer into a denial if it names a reason.
func answerError(code int, header http.Header, body []byte) error {
	e := &statusError{code: code}
	if json.Unmarshal(body, &e.info) != nil {
		e.info = kbs.ErrorInfo{Detail: "no explanation"}
	}
	switch {
	case code == http.StatusTooManyRequests || code >= 500:
		return &unavailableError{e}
	case e.info.Reason != "":
		d := &denial.Denial{
			Reason: denial.Reason(clip(e.info.Reason)), Component: "kbs", Claim: clip(e.info.Claim), RecordID: clip(e.info.Record), Detail: clip(e.info.Detail),
		}
		// What the trustee fetches for us is there in a moment.
		after, err := strconv.ParseUint(header.Get("Retry-After"), 10, 16)
		if err != nil || d.Reason != reasonCollateralMissing {
			after = 0
		}
		return &answerDenial{d, code, time.Duration(after) * time.Second}
	}
	return e
}

// reasonCollateralMissing is the trustee's word for what its verifier has not at
// hand (tee/verify, which the guest does not link).
const reasonCollateralMissing denial.Reason = "collateral-missing"

// answerDenial is the trustee's own denial with the status it came with.
type answerDenial struct {
	*denial.Denial
	code  int
	after time.Duration // when another try may succeed; 0: none will
}

func (a *answerDenial) Unwrap() error { return a.Denial }

// clip bounds text of the other side.
func clip(s string) string {
	s = strings.Map(printable, s)
	if len(s) > 300 {
		s = s[:300]
	}
	return s
}

// httpStatus gives the HTTP status in an error's chain, 0 if there is none.
func httpStatus(err error) int {
	var e *statusError
	if errors.As(err, &e) {
		return e.code
	}
	var d *answerDenial
	if errors.As(err, &d) {
		return d.code
	}
	return 0
}

func (c *client) protocol(format string, args ...any) error {
	return &denial.Denial{Reason: ReasonWrongProtocol, Component: Component, Claim: "answer of " + c.base.Host, Detail: fmt.Sprintf(format, args...)}
}
