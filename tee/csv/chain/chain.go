package chain

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/csv"
	"github.com/cofferproject/coffer/tee/internal/sm"
	"github.com/cofferproject/coffer/tee/verify"
)

// KeyService is where Hygon publishes HSK and CEK of a chip: the origin of the
// collateral is this with the serial number behind it.
const KeyService = "https://cert.hygon.cn/hsk_cek?snumber="

// Signer is a key that can check signatures.
type Signer struct {
	key *sm.PublicKey
	id  []byte
}

// Verify checks a signature over message.
func (s *Signer) Verify(message []byte, sig csv.Signature) bool {
	return s.key.Verify(s.id, message, reversed(sig.R), reversed(sig.S))
}

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}

func newSigner(k *csv.PublicKey, err error) (*Signer, error) {
	if err != nil {
		return nil, err
	}
	if k.Curve != csv.CurveSM2 {
		return nil, fmt.Errorf("curve %d, not SM2 (%d)", k.Curve, csv.CurveSM2)
	}
	pub, err := sm.NewPublicKey(reversed(k.X), reversed(k.Y))
	if err != nil {
		return nil, err
	}
	return &Signer{pub, k.ID}, nil
}

// CertSigner gives the key of a certificate with the usage that it must have.
func CertSigner(c *csv.Cert, usage uint32) (*Signer, error) {
	if c.Usage() != usage || c.Algorithm() != csv.AlgSM2 {
		return nil, fmt.Errorf("usage %#x with algorithm %#x, not %#x with %#x", c.Usage(), c.Algorithm(), usage, csv.AlgSM2)
	}
	return newSigner(c.Key())
}

// SignedBy reports whether c has a signature that says it is by a key of one
// usage, and is by this key.
func SignedBy(c *csv.Cert, usage uint32, by *Signer) bool {
	sig, ok := c.SignatureBy(usage)
	return ok && by.Verify(c.Body(), sig)
}

// Config is what a verifier of such a chain may believe.
type Config struct {
	verify.Config
	// InsecureTestRoot stands in the place of Hygon's root key, in tests.
	InsecureTestRoot *Root
}

// Verifier verifies chains up to one root key, for one component.
type Verifier struct {
	Config    Config
	Component string
	// HSK and CEK are the reasons of its denials.
	HSK, CEK denial.Reason

	root *Signer
}

// New makes a verifier.
func New(component string, hsk, cek denial.Reason, cfg Config) (*Verifier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	root := cfg.InsecureTestRoot
	if root == nil {
		root = HRK()
	}
	k, err := sm.NewPublicKey(root.X, root.Y)
	if err != nil {
		return nil, fmt.Errorf("%s: root key: %w", component, err)
	}
	return &Verifier{Config: cfg, Component: component, HSK: hsk, CEK: cek, root: &Signer{k, root.ID}}, nil
}

// Production denies in a simulated namespace: nothing simulates these chips.
func (v *Verifier) Production() error {
	if v.Config.Kind != verify.Production {
		return verify.Mismatch(verify.ReasonNotSimulated, v.Component, "root", "Hygon", "a simulator's (there is none for Hygon's chips)", "simulated namespace")
	}
	return nil
}

// FromCollateral gets HSK and CEK of a chip from what was fetched ahead.
func (v *Verifier) FromCollateral(serial string) (*csv.RootCert, *csv.Cert, error) {
	origin := KeyService + serial
	it, err := v.Config.Item(v.Component, origin)
	if err != nil {
		return nil, nil, err
	}
	hsk, cek, err := csv.ParseHSKCEK(it.Body)
	if err != nil {
		return nil, nil, verify.Deny(verify.ReasonCollateralMalformed, v.Component, "collateral "+origin, err)
	}
	return hsk, cek, nil
}

// Chip gives a chip's endorsement key, after root and HSK have vouched for it.
func (v *Verifier) Chip(hsk *csv.RootCert, cek *csv.Cert, serial, source string, r *verify.Result) (*Signer, error) {
	h, err := newSigner(hsk.Key())
	if err != nil {
		return nil, verify.Deny(v.HSK, v.Component, "HSK", err)
	}
	if hsk.Usage() != csv.UsageHSK || !v.root.Verify(hsk.Body(), hsk.Signature()) {
		return nil, verify.Deny(v.HSK, v.Component, "HSK", errors.New("no HSK with a signature of the root key"))
	}
	r.Checked("HSK", source, "HRK")
	c, err := CertSigner(cek, csv.UsageCEK)
	if err != nil {
		return nil, verify.Deny(v.CEK, v.Component, "CEK", err)
	}
	if !SignedBy(cek, csv.UsageHSK, h) {
		return nil, verify.Deny(v.CEK, v.Component, "CEK", errors.New("no CEK with a signature of the HSK"))
	}
	r.Checked("CEK", serial, "HSK")
	return c, nil
}
