// Package crl reads revocation lists as RFC 5280, section 5, profiles them: the
// complete list of one issuer about its own certificates, of which everything
// that says otherwise is understood, or else the list is refused (5.2, 5.3).
//
// Invariants: a list that this package gives out is signed by the issuer that it
// was read for, has a number and an end, and leaves out no revocation that a
// reader of serial numbers would have to know: no delta, no indirect list, no
// list of some certificates or reasons only.
//
// Trust zone: trustee and owner.
package crl

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/verify"
)

// Errors that callers tell apart.
var (
	ErrMalformed = errors.New("it cannot be read")
	ErrUntrusted = errors.New("it is not signed by the issuer")
	// ErrUnsupported: it is well-formed, and says something that is not
	// understood or that narrows what it speaks of.
	ErrUnsupported = errors.New("it is of a kind that is not understood")
)

// Extensions that are known by name here (RFC 5280, 5.2 and 5.3).
var (
	oidDelta        = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidDistribution = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidCertIssuer   = asn1.ObjectIdentifier{2, 5, 29, 29}
)

const (
	maxNumber = 20 // bytes of a list's number, as RFC 5280 bounds it
	// removeFromCRL is a reason that only delta lists have.
	removeFromCRL = 8
)

// Parse reads the list of an issuer, DER. The error is one of the three above;
// whether the list is current is for the caller to say.
func Parse(der []byte, issuer *x509.Certificate) (*x509.RevocationList, error) {
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	switch {
	case l.NextUpdate.IsZero():
		return nil, fmt.Errorf("%w: it has no next update", ErrMalformed)
	case !l.NextUpdate.After(l.ThisUpdate):
		return nil, fmt.Errorf("%w: its next update is not after this one", ErrMalformed)
	case l.Number == nil || l.Number.Sign() < 0 || len(l.Number.Bytes()) > maxNumber:
		return nil, fmt.Errorf("%w: it has no number of at most %d bytes", ErrMalformed, maxNumber)
	}
	if err := extensions(l.Extensions); err != nil {
		return nil, err
	}
	for i := range l.RevokedCertificateEntries {
		e := &l.RevokedCertificateEntries[i]
		if e.ReasonCode == removeFromCRL {
			return nil, fmt.Errorf("%w: it takes serial %x back, as only delta lists do", ErrUnsupported, e.SerialNumber)
		}
		if err := extensions(e.Extensions); err != nil {
			return nil, fmt.Errorf("entry of serial %x: %w", e.SerialNumber, err)
		}
	}
	if !bytes.Equal(l.RawIssuer, issuer.RawSubject) {
		return nil, fmt.Errorf("%w: its issuer is %s", ErrUntrusted, l.Issuer)
	}
	// A name may have several keys. Not every vendor's list names the one that
	// signed it, and then the signature alone decides.
	if len(l.AuthorityKeyId) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(l.AuthorityKeyId, issuer.SubjectKeyId) {
		return nil, fmt.Errorf("%w: its key is %x, the issuer's %x", ErrUntrusted, l.AuthorityKeyId, issuer.SubjectKeyId)
	}
	if err := l.CheckSignatureFrom(issuer); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return l, nil
}

// ReasonOf gives the reason of a denial for an error of Parse.
func ReasonOf(err error) denial.Reason {
	switch {
	case errors.Is(err, ErrUnsupported):
		return verify.ReasonCollateralUnsupported
	case errors.Is(err, ErrUntrusted):
		return verify.ReasonCollateralUntrusted
	}
	return verify.ReasonCollateralMalformed
}

// extensions refuses what a list or an entry must not be used with. The scope
// extensions are refused also where their issuer forgot to mark them critical.
func extensions(list []pkix.Extension) error {
	for i, e := range list {
		switch {
		case e.Id.Equal(oidDelta):
			return fmt.Errorf("%w: it is a delta list", ErrUnsupported)
		case e.Id.Equal(oidDistribution):
			return fmt.Errorf("%w: it is indirect, or only about a part of the issuer's certificates (issuing distribution point)", ErrUnsupported)
		case e.Id.Equal(oidCertIssuer):
			return fmt.Errorf("%w: it is indirect: the certificate has another issuer", ErrUnsupported)
		case e.Critical:
			return fmt.Errorf("%w: critical extension %s", ErrUnsupported, e.Id)
		}
		for _, o := range list[:i] {
			if o.Id.Equal(e.Id) {
				return fmt.Errorf("%w: extension %s comes twice", ErrMalformed, e.Id)
			}
		}
	}
	return nil
}
