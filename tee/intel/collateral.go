package intel

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/internal/crl"
	"github.com/cofferproject/coffer/tee/verify"
)

// maxCRL is the largest revocation list that is looked at, in bytes.
const maxCRL = 1 << 20

// itemKey names a parsed and verified item: items never change, so the pointer
// is the content. issuer is the SPKI of the certificate that vouches for it.
type itemKey struct {
	item   *collateral.Item
	issuer string
}

// revocations is a CRL whose signature was checked.
type revocations struct {
	serials map[string]bool
	number  *big.Int
	window
}

func (l *revocations) has(c *x509.Certificate) bool { return l.serials[string(c.SerialNumber.Bytes())] }

// signed is a document whose signature was checked.
type signed struct {
	signer *x509.Certificate
	chain  window // of signer and root
}

// documents is all collateral of one quote.
type documents struct {
	rootCRL, pckCRL *revocations
	tcb             *tcbInfo
	qe              *qeIdentity
	window
}

// collateral gives what the chain and the TEE type need, its signatures and
// dates checked, and nothing of it revoked.
func (v *Verifier) collateral(c *pckChain, tee uint32, now time.Time, r *Verdict) (*documents, error) {
	d := new(documents)
	var err error
	rootCRL, pckCRL := c.base.rootCRL(), c.origin
	tcb, qe := c.base.tcbInfo(tee, c.pck.FMSPC), c.base.qeIdentity(tee)
	if !v.cfg.InsecureSkipRevocation {
		if d.rootCRL, err = v.crl(rootCRL, c.root, c.spki); err != nil {
			return nil, err
		}
		if d.pckCRL, err = v.crl(pckCRL, c.ca, c.caSPKI); err != nil {
			return nil, err
		}
	}
	if d.tcb, err = load(v, c, tcb, "tcbInfo", parseTCBInfo, func(t *tcbInfo) *signed { return &t.signed }); err != nil {
		return nil, err
	}
	if d.qe, err = load(v, c, qe, "enclaveIdentity", parseQEIdentity, func(e *qeIdentity) *signed { return &e.signed }); err != nil {
		return nil, err
	}
	list := []dated{
		{tcb, between(d.tcb.Issued, d.tcb.NextUpdate)}, {qe, between(d.qe.Issued, d.qe.NextUpdate)},
		{tcb + " (signer)", d.tcb.chain}, {qe + " (signer)", d.qe.chain},
	}
	if d.rootCRL != nil {
		list = append(list, dated{rootCRL, d.rootCRL.window}, dated{pckCRL, d.pckCRL.window})
	}
	for _, w := range list {
		if now.Before(w.lastIssue) {
			return nil, verify.Mismatch(ReasonCollateralFuture, Component, "collateral "+w.origin, "issued "+rfc3339(w.lastIssue), "not after "+rfc3339(now), "clock")
		}
		if now.After(w.expires) && !v.cfg.InsecureExpiredCollateral {
			return nil, verify.Mismatch(verify.ReasonCollateralExpired, Component, "collateral "+w.origin, "valid until "+rfc3339(w.expires), "valid at "+rfc3339(now), w.origin)
		}
		d.add(w.firstIssue, w.expires)
		d.add(w.lastIssue, w.expires)
		r.Checks = append(r.Checks, verify.Check{What: "collateral", Found: "until " + rfc3339(w.expires), Source: w.origin})
	}
	d.add(c.firstIssue, c.expires)
	d.add(c.lastIssue, c.expires)
	return d, d.revoked(c)
}

// dated is a document that may be too old.
type dated struct {
	origin string
	window
}

func (d *documents) revoked(c *pckChain) error {
	serial := func(c *x509.Certificate) string { return c.Subject.CommonName + ", serial " + c.SerialNumber.Text(16) }
	if d.rootCRL == nil {
		return nil
	}
	switch {
	case d.rootCRL.has(c.ca):
		return verify.Mismatch(ReasonPCKRevoked, Component, "PCK CA", serial(c.ca), "not revoked", c.base.rootCRL())
	case d.pckCRL.has(c.leaf):
		return verify.Mismatch(ReasonPCKRevoked, Component, "PCK certificate", serial(c.leaf), "not revoked", c.origin)
	}
	for _, s := range []*x509.Certificate{d.tcb.signer, d.qe.signer} {
		if d.rootCRL.has(s) {
			return verify.Mismatch(ReasonSignerRevoked, Component, "TCB signing certificate", serial(s), "not revoked", c.base.rootCRL())
		}
	}
	return nil
}

func malformed(origin string, err error) error {
	return verify.Deny(verify.ReasonCollateralMalformed, Component, "collateral "+origin, err)
}

func untrusted(origin string, err error) error {
	return verify.Deny(verify.ReasonCollateralUntrusted, Component, "collateral "+origin, err)
}

// crl gives the revocation list of one issuer.
func (v *Verifier) crl(origin string, issuer *x509.Certificate, spki string) (*revocations, error) {
	it, err := v.cfg.Item(Component, origin)
	if err != nil {
		return nil, err
	}
	key := itemKey{it, spki}
	if l, ok := v.items.Get(key); ok {
		if l, ok := l.(*revocations); ok {
			return l, nil
		}
	}
	if len(it.Body) > maxCRL {
		return nil, malformed(origin, fmt.Errorf("%d bytes, at most %d", len(it.Body), maxCRL))
	}
	list, err := crl.Parse(it.Body, issuer)
	if err != nil {
		return nil, verify.Deny(crl.ReasonOf(err), Component, "collateral "+origin, err)
	}
	l := &revocations{serials: make(map[string]bool, len(list.RevokedCertificateEntries)), number: list.Number}
	for _, e := range list.RevokedCertificateEntries {
		l.serials[string(e.SerialNumber.Bytes())] = true
	}
	l.add(list.ThisUpdate, list.NextUpdate)
	v.items.Put(key, l)
	return l, nil
}

// load gives a signed JSON document.
func load[T any](v *Verifier, c *pckChain, origin, name string, parse func([]byte) (*T, error), sign func(*T) *signed) (*T, error) {
	it, err := v.cfg.Item(Component, origin)
	if err != nil {
		return nil, err
	}
	key := itemKey{it, c.spki}
	if t, ok := v.items.Get(key); ok {
		if t, ok := t.(*T); ok {
			return t, nil
		}
	}
	doc, s, err := openSigned(it, name, c.root)
	if err != nil {
		if errors.Is(err, errUntrusted) {
			return nil, untrusted(origin, err)
		}
		return nil, malformed(origin, err)
	}
	t, err := parse(doc)
	if err != nil {
		return nil, malformed(origin, err)
	}
	*sign(t) = *s
	v.items.Put(key, t)
	return t, nil
}

var errUntrusted = errors.New("it is not signed by Intel's TCB signing key")

// openSigned gives a signed JSON document's bytes and who signed it; errUntrusted
// where that is nobody whom the root vouches for.
func openSigned(it *collateral.Item, name string, root *x509.Certificate) ([]byte, *signed, error) {
	doc, sig, err := envelope(it.Body, name)
	if err != nil {
		return nil, nil, err
	}
	s, err := signer(it.Chain, root)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errUntrusted, err)
	}
	if k, err := p256(s.signer); err != nil || !verifyRaw(k, doc, sig) {
		return nil, nil, fmt.Errorf("%w: the signature does not verify", errUntrusted)
	}
	return doc, s, nil
}

// signer gives the TCB signing certificate, which the root issued.
func signer(chain []byte, root *x509.Certificate) (*signed, error) {
	certs, err := parseChain(chain, 3)
	if err != nil {
		return nil, fmt.Errorf("issuer chain: %w", err)
	}
	s := &signed{signer: certs[0]}
	if err := issued(s.signer, root); err != nil {
		return nil, fmt.Errorf("issuer chain: %w", err)
	}
	if err := signs(s.signer, SubjectTCBSigning); err != nil {
		return nil, fmt.Errorf("issuer chain: %w", err)
	}
	s.chain.certificates(s.signer, root)
	return s, nil
}

// verifyRaw checks an ECDSA signature of the form r, s (32 bytes each) over the
// SHA-256 of msg.
func verifyRaw(k *ecdsa.PublicKey, msg, sig []byte) bool {
	if len(sig) != quote.SignatureSize {
		return false
	}
	h := sha256.Sum256(msg)
	return ecdsa.Verify(k, h[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
}
