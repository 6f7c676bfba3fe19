// Package revocation judges certificates by revocation lists and OCSP responses
// that were fetched ahead (tee/collateral).
//
// Items are named by the URLs in the certificates with the scheme https: a list
// by its distribution point, a response by the responder's URL, a slash and the
// path-escaped standard base64 of the nonceless request (RFC 6960, A.1).
//
// Invariants: no network; what is there and cannot be believed is an error, also
// where something else would do; nothing is good for want of an answer.
//
// Trust zone: trustee and owner.
package revocation

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/internal/crl"
	"github.com/cofferproject/coffer/tee/verify"
)

// Errors that callers tell apart.
var (
	ErrRevoked = errors.New("the certificate is revoked")
	ErrMissing = errors.New("neither a revocation list nor an OCSP response is at hand")
	ErrExpired = errors.New("it is not valid at this time")

	ErrMalformed   = crl.ErrMalformed
	ErrUntrusted   = crl.ErrUntrusted
	ErrUnsupported = crl.ErrUnsupported
)

// Error says which item, or for ErrMissing which items.
type Error struct {
	Origin string
	Err    error
}

func (e *Error) Error() string { return e.Origin + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf gives the reason of a denial for an error of Check; revoked is the
// TEE's own for what is revoked.
func ReasonOf(err error, revoked denial.Reason) denial.Reason {
	switch {
	case errors.Is(err, ErrRevoked):
		return revoked
	case errors.Is(err, ErrMissing):
		return verify.ReasonCollateralMissing
	case errors.Is(err, ErrExpired):
		return verify.ReasonCollateralExpired
	}
	return crl.ReasonOf(err)
}

// Status is what was found out about one certificate.
type Status struct {
	Published   bool // its issuer publishes revocations
	ByList      bool
	ByResponse  bool
	HasResponse bool // the issuer has an OCSP responder
	Expired     bool // something was past its next update, and taken
	// Missing are origins of which nothing is at hand, or nothing that is current.
	Missing []string
}

// Checker keeps parsed items. The zero value is ready; it is safe for
// concurrent use.
type Checker struct {
	// InsecureExpired takes what is past its next update.
	InsecureExpired bool

	origins   Cache[pair, origins]
	lists     Cache[[32]byte, *x509.RevocationList]
	responses Cache[[32]byte, *ocsp.Response]
}

// pair names a certificate and its issuer as they were parsed, for chains that
// their verifier keeps.
type pair struct{ c, issuer *x509.Certificate }

type origins struct{ lists, responses []string }

// Origins lists the items that speak of a certificate, lists first.
func Origins(c, issuer *x509.Certificate) (lists, responses []string) {
	for _, u := range c.CRLDistributionPoints {
		if o, ok := canonical(u); ok {
			lists = append(lists, o)
		}
	}
	for _, u := range c.OCSPServer {
		o, ok := canonical(u)
		if !ok {
			continue
		}
		// CreateRequest fails for no certificate that was parsed.
		if req, err := ocsp.CreateRequest(c, issuer, nil); err == nil {
			responses = append(responses, strings.TrimSuffix(o, "/")+"/"+url.PathEscape(base64.StdEncoding.EncodeToString(req)))
		}
	}
	return lists, responses
}

func canonical(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", false
	}
	u.Scheme = "https"
	return u.String(), true
}

// Check judges one certificate. Where its issuer publishes revocations and
// nothing is at hand the error is ErrMissing, with the status.
func (k *Checker) Check(c, issuer *x509.Certificate, src collateral.Source, now time.Time) (Status, error) {
	o, err := k.origins.Get(pair{c, issuer}, func() (o origins, err error) {
		o.lists, o.responses = Origins(c, issuer)
		return o, nil
	})
	if err != nil {
		return Status{}, err
	}
	lists, responses := o.lists, o.responses
	s := Status{Published: len(c.CRLDistributionPoints)+len(c.OCSPServer) > 0, HasResponse: len(c.OCSPServer) > 0}
	for _, o := range lists {
		it, ok := get(src, o)
		if !ok {
			s.Missing = append(s.Missing, o)
			continue
		}
		late, err := k.byList(c, issuer, it, now)
		if late || errors.Is(err, ErrExpired) {
			s.Missing = append(s.Missing, o)
		}
		if err != nil {
			return s, &Error{o, err}
		}
		s.ByList, s.Expired = true, s.Expired || late
	}
	for _, o := range responses {
		it, ok := get(src, o)
		if !ok {
			s.Missing = append(s.Missing, o)
			continue
		}
		late, err := k.byResponse(c, issuer, it, now)
		if late || errors.Is(err, ErrExpired) {
			s.Missing = append(s.Missing, o)
		}
		if err != nil {
			return s, &Error{o, err}
		}
		s.ByResponse, s.Expired = true, s.Expired || late
	}
	if s.Published && !s.ByList && !s.ByResponse {
		return s, &Error{strings.Join(append(slices.Clone(lists), responses...), " or "), ErrMissing}
	}
	return s, nil
}

func get(src collateral.Source, origin string) (*collateral.Item, bool) {
	if src == nil {
		return nil, false
	}
	return src.Get(origin)
}

// key names an item as read for an issuer.
func key(it *collateral.Item, issuer, c *x509.Certificate) [32]byte {
	h := sha256.New()
	h.Write(issuer.Raw)
	if c != nil {
		h.Write(c.Raw)
	}
	h.Write(it.Body)
	return [32]byte(h.Sum(nil))
}

func (k *Checker) byList(c, issuer *x509.Certificate, it *collateral.Item, now time.Time) (late bool, err error) {
	l, err := k.lists.Get(key(it, issuer, nil), func() (*x509.RevocationList, error) { return crl.Parse(it.Body, issuer) })
	if err != nil {
		return false, err
	}
	if late, err = k.current(l.ThisUpdate, l.NextUpdate, now); err != nil {
		return false, err
	}
	for i := range l.RevokedCertificateEntries {
		if e := &l.RevokedCertificateEntries[i]; e.SerialNumber.Cmp(c.SerialNumber) == 0 {
			return false, fmt.Errorf("%w: serial %x at %s", ErrRevoked, c.SerialNumber, e.RevocationTime.UTC().Format(time.RFC3339))
		}
	}
	return late, nil
}

func (k *Checker) byResponse(c, issuer *x509.Certificate, it *collateral.Item, now time.Time) (late bool, err error) {
	r, err := k.responses.Get(key(it, issuer, c), func() (*ocsp.Response, error) { return parseResponse(c, issuer, it.Body) })
	if err != nil {
		return false, err
	}
	if late, err = k.current(r.ThisUpdate, r.NextUpdate, now); err != nil {
		return false, err
	}
	if d := r.Certificate; d != nil {
		l, err := k.current(d.NotBefore, d.NotAfter, now)
		if err != nil {
			return false, fmt.Errorf("%w: the responder's certificate", err)
		}
		late = late || l
	}
	switch r.Status {
	case ocsp.Good:
		return late, nil
	case ocsp.Revoked:
		return false, fmt.Errorf("%w: serial %x at %s", ErrRevoked, c.SerialNumber, r.RevokedAt.UTC().Format(time.RFC3339))
	}
	return false, fmt.Errorf("%w: the responder does not know the certificate", ErrUntrusted)
}

func parseResponse(c, issuer *x509.Certificate, body []byte) (*ocsp.Response, error) {
	// Without an issuer nothing but the form is looked at, which tells a broken
	// response from one that is signed by somebody else.
	if _, err := ocsp.ParseResponseForCert(body, c, nil); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	r, err := ocsp.ParseResponseForCert(body, c, issuer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if d := r.Certificate; d != nil && !d.Equal(issuer) && !slices.Contains(d.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
		return nil, fmt.Errorf("%w: %s may not sign OCSP responses", ErrUntrusted, d.Subject)
	}
	for _, e := range r.Extensions {
		if e.Critical {
			return nil, fmt.Errorf("%w: critical extension %s", ErrUnsupported, e.Id)
		}
	}
	return r, nil
}

// current demands an end, since what never ends would be good for ever. late:
// past that end, and taken all the same.
func (k *Checker) current(this, next, now time.Time) (late bool, err error) {
	if !next.IsZero() && !now.Before(this) && (k.InsecureExpired || !now.After(next)) {
		return now.After(next), nil
	}
	return false, fmt.Errorf("%w: from %s to %s", ErrExpired, this.UTC().Format(time.RFC3339), next.UTC().Format(time.RFC3339))
}
