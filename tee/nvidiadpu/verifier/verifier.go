// Package verifier checks evidence of NVIDIA BlueField DPUs: DeviceID and alias
// certificate to a root that the owner configures, age of the alias, and the
// alias key's signature over report data (tee/nvidiadpu/SPEC.md).
//
// Invariants: a pure function of its inputs, no network; every refusal is a
// *denial.Denial with a stable id; no root is built in; off unless
// allow_unproven names it.
//
// Trust zone: trustee and owner.
package verifier

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/internal/dice"
	"github.com/cofferproject/coffer/tee/internal/revocation"
	"github.com/cofferproject/coffer/tee/nvidiadpu"
	"github.com/cofferproject/coffer/tee/verify"
)

// Component names this verifier in denials.
const Component = "nvidia-dpu-verifier"

// Unproven is what Config.AllowUnproven has to name.
const Unproven = "nvidia-dpu"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonEvidenceMalformed denial.Reason = "nvidia-dpu-evidence-malformed"
	ReasonChainMalformed    denial.Reason = "nvidia-dpu-chain-malformed"
	ReasonChainUntrusted    denial.Reason = "nvidia-dpu-chain-untrusted"
	ReasonChainExpired      denial.Reason = "nvidia-dpu-chain-expired"
	ReasonAliasAge          denial.Reason = "nvidia-dpu-alias-age"
	ReasonRevoked           denial.Reason = "nvidia-dpu-certificate-revoked"
)

// DefaultMaxAge is how old an alias certificate may be.
const DefaultMaxAge = time.Hour

// Options is what this verifier needs beside verify.Config.
type Options struct {
	// Roots are the manufacturer's, for a production namespace. NVIDIA publishes
	// none that could be built in.
	Roots []*x509.Certificate
	// MaxAge of the alias certificate, from its beginning; 0: DefaultMaxAge.
	MaxAge time.Duration
}

// Verifier checks DPU evidence. It is immutable but for caches of what does not
// change, and safe for concurrent use.
type Verifier struct {
	cfg        verify.Config
	roots      []*x509.Certificate
	maxAge     time.Duration
	revocation revocation.Checker
}

var _ verify.Verifier = (*Verifier)(nil)

// New refuses a configuration that leaves a security choice open.
func New(c verify.Config, o Options) (*Verifier, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	v := &Verifier{cfg: c, roots: o.Roots, maxAge: o.MaxAge}
	switch {
	case c.Kind == verify.Production && len(o.Roots) == 0:
		return nil, errors.New("nvidia dpu verifier: no root is built in, and none was given")
	case c.Kind == verify.InsecureSimulated && len(o.Roots) > 0:
		return nil, errors.New("nvidia dpu verifier: production roots in a simulated namespace")
	case o.MaxAge < 0:
		return nil, errors.New("nvidia dpu verifier: negative age")
	}
	if c.Kind == verify.InsecureSimulated {
		v.roots = c.SimulatedRoots
	}
	if v.maxAge == 0 {
		v.maxAge = DefaultMaxAge
	}
	v.revocation.InsecureExpired = c.InsecureExpiredCollateral
	return v, nil
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := nvidiadpu.Parse(in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonEvidenceMalformed, Component, "evidence", err)
	}
	r, err := v.cfg.Kind.NewResult(Component, nvidiadpu.WireName, verify.ClassDPU, e.Simulation)
	if err != nil {
		return nil, err
	}
	if in.Initdata != nil {
		return nil, verify.Deny(verify.ReasonInitdataUnbound, Component, "initdata", errors.New("DPUs bind none; the CPU's evidence does"))
	}
	if err := v.cfg.Unproven(Component, Unproven); err != nil {
		return nil, err
	}
	r.Unproven = []string{Unproven}
	c, err := v.checkChain(&e.Devices[0], in.Now, r)
	if err != nil {
		return nil, err
	}
	if err := c.claims(r); err != nil {
		return nil, err
	}
	if err := checkReportData(c, &e.Devices[0], in, r); err != nil {
		return nil, err
	}
	return []*verify.Result{r}, nil
}

// chain is the two certificates, verified.
type chain struct {
	alias, device *x509.Certificate
	key           *ecdsa.PublicKey // the alias's
}

func (v *Verifier) checkChain(d *nvidiadpu.Device, now time.Time, r *verify.Result) (*chain, error) {
	alias, err1 := certchain.Parse(d.Alias)
	device, err2 := certchain.Parse(d.DeviceID)
	if err := errors.Join(err1, err2); err != nil {
		return nil, verify.Deny(ReasonChainMalformed, Component, "certificates", err)
	}
	key, err := certchain.P384(alias)
	if err != nil {
		return nil, verify.Deny(ReasonChainMalformed, Component, "alias certificate", err)
	}
	var root *x509.Certificate
	// The root does not come along; it is the one that fits.
	err = fmt.Errorf("%w: no root", certchain.ErrUntrusted)
	for _, candidate := range v.roots {
		if root, err = certchain.Verify([]*x509.Certificate{alias, device, candidate}, v.roots, now); err == nil || errors.Is(err, certchain.ErrExpired) {
			break
		}
	}
	switch {
	case errors.Is(err, certchain.ErrExpired):
		return nil, verify.Deny(ReasonChainExpired, Component, "certificates", err)
	case err != nil:
		return nil, verify.Deny(ReasonChainUntrusted, Component, "certificates", err)
	}
	r.Checked("DICE chain", device.Subject.CommonName, fmt.Sprintf("%s, public key %x", root.Subject.CommonName, certchain.SPKI(root)))
	if age := now.Sub(alias.NotBefore); age > v.maxAge {
		return nil, verify.Mismatch(ReasonAliasAge, Component, "alias certificate", age.String(), "at most "+v.maxAge.String(), "configuration")
	}
	for i, c := range []*x509.Certificate{alias, device} {
		if err := v.checkRevoked(c, []*x509.Certificate{device, root}[i], now); err != nil {
			return nil, err
		}
	}
	return &chain{alias, device, key}, nil
}

func (v *Verifier) checkRevoked(c, issuer *x509.Certificate, now time.Time) error {
	_, err := v.revocation.Check(c, issuer, v.cfg.Collateral, now)
	if err == nil || errors.Is(err, revocation.ErrMissing) && v.cfg.InsecureSkipRevocation {
		return nil
	}
	return verify.Deny(revocation.ReasonOf(err, ReasonRevoked), Component, "certificate "+c.Subject.CommonName, err)
}

// claims are the published ones; without firmware identities the count is 0.
func (c *chain) claims(r *verify.Result) error {
	h, layers := sha512.New384(), 0
	switch id, err := dice.Of(c.device); {
	case errors.Is(err, dice.ErrNone):
	case err != nil:
		return verify.Deny(ReasonChainMalformed, Component, "DeviceID certificate", err)
	default:
		for _, f := range id.FWIDs {
			h.Write(f)
			layers++
		}
	}
	r.Claims["device_serial"] = c.device.SerialNumber.Text(16)
	r.Claims["device_class"] = c.device.Subject.CommonName
	r.Claims["firmware_layers_count"] = layers
	r.Claims["accumulated_fwid"] = hex.EncodeToString(h.Sum(nil))
	r.Claims["alias_timestamp"] = c.alias.NotBefore.Unix()
	return nil
}

// checkReportData checks the alias key's signature over report data as it is,
// unfitted: DER, or r and s of 48 bytes each.
func checkReportData(c *chain, d *nvidiadpu.Device, in *verify.Input, r *verify.Result) error {
	if in.InsecureSkipReportData {
		return nil
	}
	h := sha512.Sum384(in.ReportData)
	ok := ecdsa.VerifyASN1(c.key, h[:], d.Signature)
	if !ok && len(d.Signature) == 96 {
		ok = ecdsa.Verify(c.key, h[:], new(big.Int).SetBytes(d.Signature[:48]), new(big.Int).SetBytes(d.Signature[48:]))
	}
	if !ok {
		return verify.Deny(verify.ReasonReportData, Component, "report data signature", errors.New("the alias key did not sign this session's report data"))
	}
	// Published, and the name that all TEEs have.
	r.Claims["session_nonce"], r.Claims["report_data"] = hex.EncodeToString(in.ReportData), hex.EncodeToString(in.ReportData)
	r.Checked("report data", hex.EncodeToString(in.ReportData), "signature of the alias key")
	return nil
}
