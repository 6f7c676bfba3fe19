package intel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/verify"
)

// Names in certificates' subjects.
const (
	SubjectPCK         = "Intel SGX PCK Certificate"
	SubjectPlatformCA  = "Intel SGX PCK Platform CA"
	SubjectProcessorCA = "Intel SGX PCK Processor CA"
	SubjectTCBSigning  = "Intel SGX TCB Signing"
)

// pckChain is a PCK chain whose signatures lead to a trusted root.
type pckChain struct {
	leaf, ca, root *x509.Certificate
	key            *ecdsa.PublicKey
	pck            *PCK
	window
	spki   string // hex SHA-256 of the root's SPKI
	caSPKI string
	origin string // of the PCK CRL
	base   origins
}

// window is when certificates or documents are valid.
type window struct {
	firstIssue, lastIssue, expires time.Time
}

func (w *window) add(issued, expires time.Time) {
	if w.firstIssue.IsZero() || issued.Before(w.firstIssue) {
		w.firstIssue = issued
	}
	if issued.After(w.lastIssue) {
		w.lastIssue = issued
	}
	if w.expires.IsZero() || expires.Before(w.expires) {
		w.expires = expires
	}
}

func between(issued, expires time.Time) window { return window{issued, issued, expires} }

func (w *window) certificates(list ...*x509.Certificate) {
	for _, c := range list {
		w.add(c.NotBefore, c.NotAfter)
	}
}

// parseChain reads PEM certificates, leaf first, and nothing between them.
func parseChain(b []byte, most int) ([]*x509.Certificate, error) {
	if len(b) > quote.MaxSize {
		return nil, fmt.Errorf("%d bytes of certificates, at most %d", len(b), quote.MaxSize)
	}
	var out []*x509.Certificate
	for b = trim(b); len(b) > 0; b = trim(b) {
		if len(out) == most {
			return nil, fmt.Errorf("more than %d certificates", most)
		}
		if !bytes.HasPrefix(b, []byte("-----BEGIN CERTIFICATE-----")) {
			return nil, errors.New("not a PEM certificate")
		}
		block, rest := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, errors.New("not a PEM certificate")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out, b = append(out, c), rest
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate")
	}
	return out, nil
}

// ParseChain reads a quote's certification data, leaf first, and proves nothing
// of it.
func ParseChain(b []byte) ([]*x509.Certificate, error) { return parseChain(b, 3) }

func trim(b []byte) []byte { return bytes.Trim(b, "\x00\r\n\t ") }

// pckChain gives the verified chain of a quote, checked for validity now.
func (v *Verifier) pckChain(q *quote.Quote, now time.Time, r *Verdict) (*pckChain, error) {
	if q.CertType != quote.CertPCKChain {
		return nil, verify.Deny(ReasonPCKMalformed, Component, "certification data", fmt.Errorf("type %d is not a PCK chain (5)", q.CertType))
	}
	key := sha256.Sum256(q.CertData)
	c, ok := v.chains.Get(key)
	if !ok {
		var err error
		if c, err = v.verifyChain(q.CertData); err != nil {
			return nil, err
		}
		v.chains.Put(key, c)
	}
	if now.Before(c.lastIssue) || now.After(c.expires) {
		return nil, verify.Mismatch(ReasonPCKExpired, Component, "PCK chain", now.UTC().Format(time.RFC3339),
			"between "+rfc3339(c.lastIssue)+" and "+rfc3339(c.expires), "validity of its certificates")
	}
	r.Checks = append(r.Checks, verify.Check{What: "PCK chain", Found: c.ca.Subject.CommonName, Source: "root SPKI " + c.spki})
	return c, nil
}

func (v *Verifier) verifyChain(data []byte) (*pckChain, error) {
	bad := func(err error) error { return verify.Deny(ReasonPCKMalformed, Component, "PCK chain", err) }
	certs, err := parseChain(data, 3)
	if err == nil && len(certs) != 3 {
		err = fmt.Errorf("%d certificates, not 3", len(certs))
	}
	if err != nil {
		return nil, bad(err)
	}
	c := &pckChain{leaf: certs[0], ca: certs[1]}
	if c.root, err = v.trusted(certs[2]); err != nil {
		return nil, err
	}
	c.spki, c.caSPKI = fingerprint(c.root), fingerprint(c.ca)
	untrusted := func(claim string, err error) error { return verify.Deny(ReasonPCKUntrusted, Component, claim, err) }
	if err := issued(c.ca, c.root); err != nil {
		return nil, untrusted("PCK CA", err)
	}
	if err := issued(c.leaf, c.ca); err != nil {
		return nil, untrusted("PCK certificate", err)
	}
	c.base = originsFor(v.cfg.Kind, c.spki)
	switch c.ca.Subject.CommonName {
	case SubjectPlatformCA:
		c.origin = c.base.pckCRL("platform")
	case SubjectProcessorCA:
		c.origin = c.base.pckCRL("processor")
	default:
		return nil, untrusted("PCK CA", fmt.Errorf("subject %q", c.ca.Subject.CommonName))
	}
	if err := signs(c.leaf, SubjectPCK); err != nil {
		return nil, untrusted("PCK certificate", err)
	}
	if c.key, err = p256(c.leaf); err != nil {
		return nil, bad(err)
	}
	if c.pck, err = ParsePCK(c.leaf); err != nil {
		return nil, bad(err)
	}
	if !c.pck.fits(c.ca.Subject.CommonName) {
		return nil, bad(errors.New("platform instance without Platform CA, or the other way round"))
	}
	c.certificates(c.leaf, c.ca, c.root)
	return c, nil
}

// fits: only the Platform CA certifies platform instances.
func (p *PCK) fits(ca string) bool { return (p.PIID != nil) == (ca == SubjectPlatformCA) }

// trusted gives the root that the verifier was made with and that has the key of
// the chain's last certificate.
func (v *Verifier) trusted(last *x509.Certificate) (*x509.Certificate, error) {
	var names []string
	for _, r := range v.roots {
		if bytes.Equal(r.RawSubjectPublicKeyInfo, last.RawSubjectPublicKeyInfo) {
			if !bytes.Equal(r.Raw, last.Raw) {
				if err := last.CheckSignatureFrom(last); err != nil {
					return nil, verify.Deny(ReasonPCKUntrusted, Component, "root certificate", err)
				}
			}
			return r, nil
		}
		names = append(names, fingerprint(r))
	}
	if v.cfg.Kind == verify.InsecureSimulated && bytes.Equal(last.RawSubjectPublicKeyInfo, Root().RawSubjectPublicKeyInfo) {
		return nil, verify.Mismatch(verify.ReasonNotSimulated, Component, "root certificate", "Intel's", "a root of simulated hardware", "simulated namespace")
	}
	return nil, verify.Mismatch(ReasonPCKUntrusted, Component, "root certificate", "SPKI "+fingerprint(last), "SPKI "+strings.Join(names, " or "), "trusted roots")
}

// issued checks one link: signature, CA and key usage of the issuer, names.
func issued(c, by *x509.Certificate) error {
	if len(c.UnhandledCriticalExtensions) > 0 {
		return fmt.Errorf("critical extension %s is unknown", c.UnhandledCriticalExtensions[0])
	}
	if !bytes.Equal(c.RawIssuer, by.RawSubject) {
		return fmt.Errorf("issuer %q is not %q", c.Issuer, by.Subject)
	}
	if _, err := p256(by); err != nil {
		return err
	}
	return c.CheckSignatureFrom(by)
}

// signs checks that a certificate is of a key of that name, for signatures over
// data.
func signs(c *x509.Certificate, name string) error {
	if c.Subject.CommonName != name || c.IsCA || c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return fmt.Errorf("subject %q, CA %t, key usage %#x", c.Subject.CommonName, c.IsCA, int(c.KeyUsage))
	}
	return nil
}

func p256(c *x509.Certificate) (*ecdsa.PublicKey, error) {
	k, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%q: the key is not on P-256", c.Subject.CommonName)
	}
	return k, nil
}

func fingerprint(c *x509.Certificate) string {
	s := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(s[:])
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
