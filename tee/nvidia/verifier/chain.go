package verifier

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/internal/dice"
	"github.com/cofferproject/coffer/tee/internal/revocation"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/spdm"
	"github.com/cofferproject/coffer/tee/verify"
)

// minChain: leaf, device, architecture, root. The other implementation takes 2.
const minChain = 4

// chain is a chain that was verified once.
type chain struct {
	certs    []*x509.Certificate // leaf first, root last
	key      *ecdsa.PublicKey    // of the leaf
	leafSPKI [32]byte
	identity *dice.Identity
	from, to time.Time // in between every certificate is valid
}

// checkChain verifies the device's chain, or finds it verified.
func (d *device) checkChain() error {
	text, err := d.dev.Chain()
	if err != nil {
		return d.deny(ReasonChainMalformed, "certificate", err)
	}
	fill := func() (*chain, error) { return d.v.newChain(text, d.in.Now) }
	c, err := d.v.chains.Get(sha256.Sum256(text), fill)
	if err == nil && (d.in.Now.Before(c.from) || d.in.Now.After(c.to)) {
		c, err = fill()
	}
	switch {
	case errors.Is(err, certchain.ErrExpired):
		return d.deny(ReasonChainExpired, "certificate chain", err)
	case errors.Is(err, certchain.ErrUntrusted):
		return d.deny(ReasonChainUntrusted, "certificate chain", err)
	case err != nil:
		return d.deny(ReasonChainMalformed, "certificate chain", err)
	}
	d.chain = c
	root := c.certs[len(c.certs)-1]
	d.res.Checked("certificate chain", c.certs[1].Subject.CommonName, fmt.Sprintf("%s, public key %x", root.Subject.CommonName, certchain.SPKI(root)))
	return nil
}

func (v *Verifier) newChain(text []byte, now time.Time) (*chain, error) {
	certs, err := certchain.ParsePEM(text)
	if err != nil {
		return nil, err
	}
	if len(certs) < minChain {
		return nil, fmt.Errorf("%w: %d certificates, at least %d", certchain.ErrUntrusted, len(certs), minChain)
	}
	root, err := certchain.Verify(certs, v.roots, now)
	if err != nil {
		return nil, err
	}
	certs[len(certs)-1] = root
	c := &chain{certs: certs, leafSPKI: certchain.SPKI(certs[0]), from: certs[0].NotBefore, to: certs[0].NotAfter}
	if c.key, err = certchain.P384(certs[0]); err != nil {
		return nil, err
	}
	if certs[0].KeyUsage&x509.KeyUsageDigitalSignature == 0 || certs[0].IsCA {
		return nil, fmt.Errorf("%w: %s may not sign reports", certchain.ErrUntrusted, certs[0].Subject)
	}
	if c.identity, err = dice.Of(certs[0]); err != nil {
		return nil, err
	}
	if k := c.identity.DeviceKey; k != nil && !bytes.Equal(k, certs[1].RawSubjectPublicKeyInfo) {
		return nil, fmt.Errorf("%w: the leaf names another identity key than its issuer's", certchain.ErrUntrusted)
	}
	for _, x := range certs {
		if x.NotBefore.After(c.from) {
			c.from = x.NotBefore
		}
		if x.NotAfter.Before(c.to) {
			c.to = x.NotAfter
		}
	}
	return c, nil
}

// models are the beginnings of chip names of an architecture, as in the
// certificate "NVIDIA GH100 Identity" that the root signed.
var models = map[nvidia.Arch][]string{nvidia.Hopper: {"GH"}, nvidia.Blackwell: {"GB"}, nvidia.LS10: {"LS10", "LS_10"}}

// checkArch holds what the evidence says of the device against what its chain
// says: the text around a report is not signed.
func (d *device) checkArch() error {
	certs := d.chain.certs
	cn := certs[len(certs)-2].Subject.CommonName
	for _, p := range models[d.arch] {
		if strings.HasPrefix(modelOf(certs), p) {
			d.res.Checked("architecture", string(d.arch), cn)
			return nil
		}
	}
	return verify.Mismatch(ReasonArchMismatch, Component, d.name+"arch", string(d.arch), cn, "certificate chain")
}

// checkFWID compares the firmware that the report names with the firmware that
// the leaf's key was made for.
func (d *device) checkFWID() error {
	have, _ := d.rep.Opaque.Raw(spdm.FieldFWID)
	if want := d.chain.identity.FWIDs[0]; !bytes.Equal(have, want) {
		return verify.Mismatch(ReasonFWIDMismatch, Component, d.name+"firmware identity", hex.EncodeToString(have), hex.EncodeToString(want), "leaf certificate")
	}
	d.res.Checked("firmware identity", hex.EncodeToString(have), "leaf certificate")
	return nil
}

// revoked is what was found out about the revocation of a chain.
type revoked struct {
	lists, responses int  // certificates that one of them speaks well of
	ocspGood         bool // every certificate that has a responder is good by it
	missing          int  // certificates that nothing at hand speaks of
	expired          bool // something was past its next update
}

func (r revoked) claim() string {
	switch {
	case r.missing > 0:
		return "skipped"
	case r.expired:
		return "expired"
	case r.lists > 0 && r.responses > 0:
		return "crl and ocsp"
	case r.responses > 0:
		return "ocsp"
	case r.lists > 0:
		return "crl"
	}
	return "none published"
}

func (d *device) checkRevocation() (err error) {
	if d.rev, err = d.v.checkRevoked(d.name+"certificate chain: ", d.chain.certs, d.in); err != nil {
		return err
	}
	d.res.Checked("revocation of the certificate chain", d.rev.claim(), "collateral")
	return nil
}

// checkRevoked judges all certificates of a chain but the root, which is known
// by its key. What is missing of any of them is told before the first is denied for it.
func (v *Verifier) checkRevoked(claim string, certs []*x509.Certificate, in *verify.Input) (revoked, error) {
	r := revoked{ocspGood: true}
	responders := 0
	var missing error
	for i, c := range certs[:len(certs)-1] {
		s, err := v.revocation.Check(c, certs[i+1], v.cfg.Collateral, in.Now)
		for _, o := range s.Missing {
			in.Miss(o, certs[i+1:])
		}
		switch {
		case errors.Is(err, revocation.ErrMissing) && v.cfg.InsecureSkipRevocation:
			r.missing++
		case errors.Is(err, revocation.ErrMissing), errors.Is(err, revocation.ErrExpired):
			if missing == nil {
				missing = denyRevocation(claim+c.Subject.CommonName, err)
			}
		case err != nil:
			return r, denyRevocation(claim+c.Subject.CommonName, err)
		}
		r.expired = r.expired || s.Expired
		if s.ByList {
			r.lists++
		}
		if s.ByResponse {
			r.responses++
		}
		if s.HasResponse {
			responders++
			r.ocspGood = r.ocspGood && s.ByResponse
		}
	}
	r.ocspGood = r.ocspGood && responders > 0 && !r.expired
	return r, missing
}

func denyRevocation(claim string, err error) error {
	d := &denial.Denial{Reason: revocation.ReasonOf(err, ReasonRevoked), Component: Component, Claim: claim, Detail: err.Error()}
	if e, ok := errors.AsType[*revocation.Error](err); ok {
		d.Source, _, _ = strings.Cut(e.Origin, " or ")
	}
	return d
}

// verifyRaw checks r and s of 48 bytes each over SHA-384.
func verifyRaw(k *ecdsa.PublicKey, msg, sig []byte) bool {
	if len(sig) != 96 {
		return false
	}
	h := sha512.Sum384(msg)
	return ecdsa.Verify(k, h[:], new(big.Int).SetBytes(sig[:48]), new(big.Int).SetBytes(sig[48:]))
}
