package revocation

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/internal/crl"
)

// Issuers reads the issuers that an item carries and checks that each is certified by
// the next, and the last by itself. Who the last is, is for the caller to say; and
// whether they are current.
func Issuers(it *collateral.Item) ([]*x509.Certificate, error) {
	if len(it.Chain) == 0 {
		return nil, errors.New("it does not say who has signed it: no issuer chain")
	}
	chain, err := certchain.ParsePEM(it.Chain)
	if err != nil {
		return nil, fmt.Errorf("issuer chain: %w", err)
	}
	root := chain[len(chain)-1]
	if len(chain) == 1 {
		if err := root.CheckSignatureFrom(root); err != nil {
			return nil, fmt.Errorf("issuer chain: %w: %w", certchain.ErrUntrusted, err)
		}
		return chain, nil
	}
	_, err = certchain.Verify(chain, []*x509.Certificate{root}, Latest(chain))
	return chain, err
}

// Latest is when the last of some certificates began to count.
func Latest(certs []*x509.Certificate) (at time.Time) {
	for _, c := range certs {
		if c.NotBefore.After(at) {
			at = c.NotBefore
		}
	}
	return at
}

// CheckPublished verifies a revocation list or an OCSP response, which of both its
// origin says, by its issuer: what Check would refuse is refused here. Whether it is
// current is for the caller to say, and what it says of certificates nobody's matter.
func CheckPublished(it *collateral.Item, issuer *x509.Certificate) (collateral.Validity, error) {
	serial, asked, err := requested(it.Origin)
	if err != nil {
		return collateral.Validity{}, err
	}
	if !asked {
		l, err := crl.Parse(it.Body, issuer)
		if err != nil {
			return collateral.Validity{}, err
		}
		return collateral.Validity{Issued: l.ThisUpdate, Until: l.NextUpdate}, nil
	}
	// The request names an issuer by hashes: it has to be this one.
	again, err := ocsp.CreateRequest(serial.cert, issuer, nil)
	if err != nil || !bytes.Equal(again, serial.request) {
		return collateral.Validity{}, fmt.Errorf("%w: its origin asks about another issuer's certificate", ErrUntrusted)
	}
	r, err := parseResponse(serial.cert, issuer, it.Body)
	switch {
	case err != nil:
		return collateral.Validity{}, err
	case r.Status == ocsp.Unknown:
		return collateral.Validity{}, fmt.Errorf("%w: the responder does not know the certificate", ErrUntrusted)
	case r.NextUpdate.IsZero() || !r.NextUpdate.After(r.ThisUpdate):
		return collateral.Validity{}, fmt.Errorf("%w: its next update is not after this one", ErrMalformed)
	}
	v := collateral.Validity{Issued: r.ThisUpdate, Until: r.NextUpdate}
	if d := r.Certificate; d != nil && d.NotAfter.Before(v.Until) {
		v.Until = d.NotAfter
	}
	return v, nil
}

// question is what an origin asks an OCSP responder.
type question struct {
	request []byte
	cert    *x509.Certificate // with a serial number alone
}

// requested gives what an origin asks; false: it is that of a list.
func requested(origin string) (*question, bool, error) {
	i := strings.LastIndexByte(origin, '/')
	text, err := url.PathUnescape(origin[i+1:])
	if err != nil {
		return nil, false, fmt.Errorf("origin: %w", err)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < minRequest {
		return nil, false, nil
	}
	r, err := ocsp.ParseRequest(raw)
	if err != nil {
		return nil, false, nil
	}
	return &question{raw, &x509.Certificate{SerialNumber: r.SerialNumber}}, true, nil
}

// minRequest is less than any request with two SHA-1 hashes has.
const minRequest = 40
