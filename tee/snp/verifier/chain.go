package verifier

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/verify"
)

// chain is a leaf whose signatures were verified up to an anchor. Validity and
// revocation depend on the time and are checked at every use.
type chain struct {
	*leaf
	ask    *x509.Certificate
	anchor *anchor
}

const rsaBytes = 512 // RSA-4096 in all three product lines

// chainOf verifies leaf, signing key and root. What the evidence brings along
// must be part of that chain: nothing is silently passed over.
func (v *Reports) chainOf(der []byte, vlek bool, certs []snp.Cert) (*chain, error) {
	key := chainKey(der, vlek, certs)
	if c, ok := v.chains.Get(key); ok {
		return c, nil
	}
	l, err := parseLeaf(der, vlek)
	if err != nil {
		return nil, v.deny(ReasonCertificateMalformed, leafType(vlek)+" certificate", err)
	}
	var asks, arks []*x509.Certificate
	for _, c := range certs {
		var to *[]*x509.Certificate
		switch c.Type {
		case snp.CertASK:
			to = &asks
		case snp.CertARK:
			to = &arks
		default:
			continue
		}
		p, err := x509.ParseCertificate(c.Data)
		if err != nil {
			return nil, v.deny(ReasonCertificateMalformed, c.Type+" certificate", err)
		}
		*to = append(*to, p)
	}
	if len(asks) > 1 || len(arks) > 1 {
		return nil, v.deny(ReasonChainUntrusted, "certificate chain", errors.New("several signing keys or roots"))
	}
	c, err := v.build(l, asks)
	if err == nil && len(arks) == 1 && !bytes.Equal(arks[0].Raw, c.anchor.ark.Raw) {
		err = sameRoot(arks[0], c.anchor.ark)
	}
	if err != nil {
		if root := simulatedOrVendor(v.cfg.Kind, l, asks, arks); root != "" {
			return nil, v.deny(root, "certificate chain", err)
		}
		return nil, v.deny(ReasonChainUntrusted, "certificate chain", err)
	}
	v.chains.Put(key, c)
	return c, nil
}

// sameRoot accepts another certificate of the root's own key.
func sameRoot(ark, root *x509.Certificate) error {
	if !bytes.Equal(ark.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) {
		return fmt.Errorf("the ARK that came, %s, is not the root", spkiFingerprint(ark))
	}
	if err := checkCA(ark, root); err != nil {
		return fmt.Errorf("ARK that came: %w", err)
	}
	return nil
}

// simulatedOrVendor gives the reason of its own for a vendor's chain in a
// simulated namespace.
func simulatedOrVendor(k verify.Kind, l *leaf, asks, arks []*x509.Certificate) denial.Reason {
	if k != verify.InsecureSimulated {
		return ""
	}
	as, err := vendorAnchors()
	if err != nil {
		return ""
	}
	for _, a := range as {
		if bytes.Equal(l.cert.RawIssuer, a.ask.RawSubject) && l.cert.CheckSignatureFrom(a.ask) == nil ||
			bytes.Equal(l.cert.RawIssuer, a.asvk.RawSubject) && l.cert.CheckSignatureFrom(a.asvk) == nil {
			return verify.ReasonNotSimulated
		}
	}
	for _, c := range append(asks, arks...) {
		if isVendorRoot(c) {
			return verify.ReasonNotSimulated
		}
	}
	return ""
}

// build finds the signing key and the root of a leaf: the ones that came, or
// else the embedded ones. Simulated roots may share a name: each is tried.
func (v *Reports) build(l *leaf, asks []*x509.Certificate) (*chain, error) {
	err := fmt.Errorf("no trusted root for product %q, issuer %q", l.product, l.cert.Issuer.CommonName)
	for _, a := range v.anchors {
		if a.product != "" && a.product != l.product {
			continue
		}
		var c *chain
		if c, err = a.issued(l, asks); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// issued verifies the signatures from a leaf to this anchor.
func (a *anchor) issued(l *leaf, asks []*x509.Certificate) (*chain, error) {
	ask := a.ask
	if l.vlek {
		ask = a.asvk
	}
	if len(asks) == 1 {
		ask = asks[0]
	}
	switch {
	case ask == nil:
		return nil, errors.New("no ASK came, and a simulated root has none embedded")
	case !bytes.Equal(ask.RawIssuer, a.ark.RawSubject):
		return nil, fmt.Errorf("ASK: issued by %q, not by %q", ask.Issuer.CommonName, a.ark.Subject.CommonName)
	case !bytes.Equal(l.cert.RawIssuer, ask.RawSubject):
		return nil, fmt.Errorf("%s: issued by %q, not by %q", leafType(l.vlek), l.cert.Issuer.CommonName, ask.Subject.CommonName)
	case l.cert.SignatureAlgorithm != x509.SHA384WithRSAPSS:
		return nil, fmt.Errorf("%s: signed with %s", leafType(l.vlek), l.cert.SignatureAlgorithm)
	}
	if err := checkCA(a.ark, a.ark); err != nil {
		return nil, fmt.Errorf("ARK: %w", err)
	}
	if err := checkCA(ask, a.ark); err != nil {
		return nil, fmt.Errorf("ASK: %w", err)
	}
	if err := l.cert.CheckSignatureFrom(ask); err != nil {
		return nil, fmt.Errorf("%s: %w", leafType(l.vlek), err)
	}
	return &chain{leaf: l, ask: ask, anchor: a}, nil
}

// checkCA checks one certificate of the fixed shape: RSA-4096, a CA, signed with
// RSASSA-PSS and SHA-384.
func checkCA(c, parent *x509.Certificate) error {
	k, ok := c.PublicKey.(*rsa.PublicKey)
	switch {
	case !ok || k.Size() != rsaBytes:
		return errors.New("not an RSA-4096 key")
	case !c.IsCA || !c.BasicConstraintsValid || len(c.UnhandledCriticalExtensions) > 0:
		return errors.New("not a CA, or a critical extension that is not known")
	case c.SignatureAlgorithm != x509.SHA384WithRSAPSS:
		return fmt.Errorf("signed with %s", c.SignatureAlgorithm)
	}
	return c.CheckSignatureFrom(parent)
}

// checkTime demands that all three certificates are valid now.
func (v *Reports) checkTime(c *chain, now time.Time) error {
	for _, x := range []struct {
		name string
		cert *x509.Certificate
	}{{leafType(c.vlek), c.cert}, {"ASK", c.ask}, {"ARK", c.anchor.ark}} {
		if now.Before(x.cert.NotBefore) || now.After(x.cert.NotAfter) {
			return verify.Mismatch(ReasonCertificateExpired, v.component, x.name+" certificate: validity", now.UTC().Format(time.RFC3339),
				x.cert.NotBefore.UTC().Format(time.RFC3339)+" to "+x.cert.NotAfter.UTC().Format(time.RFC3339), "the certificate")
		}
	}
	return nil
}

func chainKey(der []byte, vlek bool, certs []snp.Cert) [32]byte {
	h := sha256.New()
	part := func(kind byte, b []byte) {
		h.Write([]byte{kind, byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b))})
		h.Write(b)
	}
	kind := byte(0)
	if vlek {
		kind = 1
	}
	part(kind, der)
	for _, c := range certs {
		switch c.Type {
		case snp.CertASK:
			part(2, c.Data)
		case snp.CertARK:
			part(3, c.Data)
		}
	}
	return [32]byte(h.Sum(nil))
}

func spkiFingerprint(c *x509.Certificate) string {
	s := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(s[:])
}
