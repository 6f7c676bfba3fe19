// Package verifier judges SEV-SNP evidence: the certificate chain to named roots,
// revocation, what the certificate says of chip and TCB, the report's signature
// and its fields (SPEC.md, "What the verifier checks").
//
// Invariants: no network, no files; a root of simulated hardware is never
// trusted in production, and a vendor's never in simulation; every refusal is a
// typed denial; a version or a kind of key that no outside vector has shown is
// off until allow_unproven names it.
//
// Trust zone: trustee and owner.
package verifier

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/internal/lru"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/verify"
)

const component = "snp-verifier"

// What needs allow_unproven: no outside vector was at hand.
const (
	UnprovenV4    = "snp-report-v4"
	UnprovenV5    = "snp-report-v5"
	UnprovenTurin = "snp-turin"
	UnprovenVLEK  = "snp-vlek"
)

// Bounds of the caches. A verified chain is about 12 KB.
const (
	maxChains = 512
	maxCRLs   = 16
)

// Reports verifies reports in their binary form, for every TEE whose evidence
// carries one. It is safe for concurrent use.
type Reports struct {
	cfg       verify.Config
	component string
	anchors   []*anchor
	chains    *lru.Cache[[32]byte, *chain]
	crls      *lru.Cache[crlKey, *x509.RevocationList]
}

// NewReports makes a verifier whose denials name component.
func NewReports(cfg verify.Config, component string) (*Reports, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	v := &Reports{cfg: cfg, component: component, chains: lru.New[[32]byte, *chain](maxChains), crls: lru.New[crlKey, *x509.RevocationList](maxCRLs)}
	if cfg.Kind == verify.InsecureSimulated {
		if slices.ContainsFunc(cfg.SimulatedRoots, isVendorRoot) {
			return nil, errors.New("snp verifier: a vendor's root among simulated ones")
		}
		v.anchors = simulatedAnchors(cfg.SimulatedRoots)
		return v, nil
	}
	var err error
	v.anchors, err = vendorAnchors()
	return v, err
}

// Verify judges a report. certs is what came with it; without the certificate of
// its key it is taken from the collateral. Checks, Debug and Unproven go into
// res; claims are the caller's (Claims).
func (v *Reports) Verify(raw []byte, certs []snp.Cert, now time.Time, res *verify.Result) (*snp.Report, error) {
	r, err := snp.ParseReport(raw)
	if err != nil {
		return nil, v.parseError(err)
	}
	if err := v.verify(r, raw, certs, now, res); err != nil {
		return nil, err
	}
	return r, nil
}

func (v *Reports) parseError(err error) error {
	reason := ReasonMalformed
	if errors.Is(err, snp.ErrVersion) {
		reason = ReasonVersion
	}
	return v.deny(reason, "evidence", err)
}

func (v *Reports) verify(r *snp.Report, raw []byte, certs []snp.Cert, now time.Time, res *verify.Result) error {
	if err := v.checkHead(r, res); err != nil {
		return err
	}
	vlek := r.KeyInfo.SigningKey() == snp.KeyVLEK
	der, from, err := v.leafOf(r, vlek, certs)
	if err != nil {
		return err
	}
	c, err := v.chainOf(der, vlek, certs)
	if err != nil {
		return err
	}
	if err := v.checkTime(c, now); err != nil {
		return err
	}
	if err := v.unproven(c.product == Turin, UnprovenTurin, res); err != nil {
		return err
	}
	res.Checked("certificate chain", fmt.Sprintf("%s of %s, from %s", leafType(vlek), c.product, from), "ARK SPKI SHA-256 "+spkiFingerprint(c.anchor.ark))
	if err := v.checkRevocation(c, now, res); err != nil {
		return err
	}
	if err := v.checkEndorsement(r, c, res); err != nil {
		return err
	}
	if !validSignature(c.key, r, raw) {
		return &denial.Denial{
			Reason: ReasonSignature, Component: v.component, Claim: "report signature", Measured: "does not verify",
			Expected: "ECDSA P-384 with SHA-384 by the certificate's key", Source: leafType(vlek) + " certificate",
		}
	}
	res.Checked("report signature", "ECDSA P-384 with SHA-384", leafType(vlek)+" certificate")
	return v.checkFields(r, res)
}

// checkHead judges what says how the rest is to be read.
func (v *Reports) checkHead(r *snp.Report, res *verify.Result) error {
	for _, u := range []struct {
		is   bool
		what string
	}{{r.Version == 4, UnprovenV4}, {r.Version >= 5, UnprovenV5}, {r.KeyInfo.SigningKey() == snp.KeyVLEK, UnprovenVLEK}} {
		if err := v.unproven(u.is, u.what, res); err != nil {
			return err
		}
	}
	switch k := r.KeyInfo.SigningKey(); {
	case r.SigAlgo != 1:
		return verify.Mismatch(ReasonSigningKey, v.component, "signature algorithm", fmt.Sprint(r.SigAlgo), "1 (ECDSA P-384 with SHA-384)", "report")
	case !r.KeyInfo.WellFormed() || k != snp.KeyVCEK && k != snp.KeyVLEK:
		return verify.Mismatch(ReasonSigningKey, v.component, "signing key", fmt.Sprintf("%#x", uint32(r.KeyInfo)), "VCEK (0) or VLEK (1)", "report")
	}
	if r.CPU != nil && productOf(*r.CPU) == "" {
		return verify.Mismatch(ReasonProduct, v.component, "processor", fmt.Sprintf("family %#x model %#x", r.CPU.Family, r.CPU.Model), fmt.Sprint(Products), "report")
	}
	return nil
}

func (v *Reports) unproven(is bool, what string, res *verify.Result) error {
	if !is {
		return nil
	}
	if err := v.cfg.Unproven(v.component, what); err != nil {
		return err
	}
	if !slices.Contains(res.Unproven, what) {
		res.Unproven = append(res.Unproven, what)
	}
	return nil
}

// leafOf gives the certificate of the key that the report says signed it.
func (v *Reports) leafOf(r *snp.Report, vlek bool, certs []snp.Cert) (der []byte, from string, err error) {
	for _, c := range certs {
		if c.Type == leafType(vlek) {
			if der != nil {
				return nil, "", v.deny(ReasonCertificateMalformed, c.Type+" certificate", errors.New("comes twice"))
			}
			der = c.Data
		}
	}
	if der != nil {
		return der, "the evidence", nil
	}
	if vlek || v.cfg.Kind == verify.InsecureSimulated {
		return nil, "", &denial.Denial{
			Reason: ReasonCertificateMissing, Component: v.component, Claim: leafType(vlek) + " certificate", Measured: "none", Expected: "in cert_chain", Source: "evidence",
		}
	}
	for _, p := range productsOf(r) {
		item, e := v.cfg.Item(v.component, VCEKOrigin(p, r.ChipID, r.ReportedTCB))
		if e == nil {
			return item.Body, item.Origin, nil
		}
		if err == nil {
			err = e
		}
	}
	return nil, "", err
}

// checkEndorsement compares the report with what the certificate vouches for.
func (v *Reports) checkEndorsement(r *snp.Report, c *chain, res *verify.Result) error {
	source := leafType(c.vlek) + " certificate"
	if !slices.Contains(productsOf(r), c.product) {
		return verify.Mismatch(ReasonProduct, v.component, "product", fmt.Sprint(productsOf(r)), c.product, source)
	}
	if r.ReportedTCB != c.tcb {
		return verify.Mismatch(ReasonTCBMismatch, v.component, "reported TCB", r.ReportedTCB.String(), c.tcb.String(), source)
	}
	res.Checked("reported TCB", r.ReportedTCB.String(), source)
	if c.vlek {
		res.Checked("VLEK", "cloud provider "+c.csp, source)
		return nil
	}
	want := make([]byte, len(r.ChipID))
	copy(want, c.hwid)
	if !bytes.Equal(r.ChipID[:], want) {
		return verify.Mismatch(ReasonChipID, v.component, "chip id", hex.EncodeToString(r.ChipID[:]), hex.EncodeToString(want), source)
	}
	res.Checked("chip id", hex.EncodeToString(c.hwid), source)
	return nil
}

// validSignature checks the report's own signature; R and S are little-endian.
func validSignature(key *ecdsa.PublicKey, r *snp.Report, raw []byte) bool {
	sum := sha512.Sum384(raw[:snp.SignedSize])
	return ecdsa.Verify(key, sum[:], littleEndian(r.R), littleEndian(r.S))
}

func littleEndian(b [72]byte) *big.Int {
	slices.Reverse(b[:])
	return new(big.Int).SetBytes(b[:])
}

// checkFields judges what the signed report says.
func (v *Reports) checkFields(r *snp.Report, res *verify.Result) error {
	switch {
	case r.VMPL != 0:
		return verify.Mismatch(ReasonVMPL, v.component, "VMPL", fmt.Sprint(r.VMPL), "0", "the guest's own privilege level")
	case !r.Policy.WellFormed():
		return verify.Mismatch(ReasonPolicy, v.component, "guest policy", fmt.Sprintf("%#x", uint64(r.Policy)), "bit 17 set, bits 26 to 63 clear", "SNP firmware ABI")
	case !r.CommittedTCB.AtMost(r.CurrentTCB):
		return verify.Mismatch(ReasonTCBOrder, v.component, "committed TCB", r.CommittedTCB.String(), "at most "+r.CurrentTCB.String(), "current TCB")
	case !r.ReportedTCB.AtMost(r.CurrentTCB):
		return verify.Mismatch(ReasonTCBOrder, v.component, "reported TCB", r.ReportedTCB.String(), "at most "+r.CurrentTCB.String(), "current TCB")
	case !r.Committed.AtMost(r.Current):
		return verify.Mismatch(ReasonTCBOrder, v.component, "committed firmware", r.Committed.String(), "at most "+r.Current.String(), "current firmware")
	}
	res.Checked("VMPL", "0", "report")
	res.Debug = res.Debug || r.Policy.Debug()
	return nil
}

func (v *Reports) deny(reason denial.Reason, claim string, err error) error {
	return verify.Deny(reason, v.component, claim, err)
}

// Verifier judges the published evidence of TEE "snp".
type Verifier struct{ reports *Reports }

// New makes the verifier.
func New(cfg verify.Config) (verify.Verifier, error) {
	r, err := NewReports(cfg, component)
	if err != nil {
		return nil, err
	}
	return &Verifier{r}, nil
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := snp.Parse(in.Evidence)
	if err != nil {
		return nil, v.reports.parseError(err)
	}
	res, err := v.reports.cfg.Kind.NewResult(component, snp.WireName, verify.ClassCPU, e.Simulation)
	if err != nil {
		return nil, err
	}
	if err := v.reports.verify(e.Report, e.Report.Bytes(), e.Certs, in.Now, res); err != nil {
		return nil, err
	}
	res.Claims = Claims(e.Report)
	if err := verify.CheckReportData(component, e.Report.ReportData[:], in, res); err != nil {
		return nil, err
	}
	if err := verify.CheckInitdata(component, snp.WireName, "HOST_DATA", e.Report.HostData[:], in, res); err != nil {
		return nil, err
	}
	return []*verify.Result{res}, nil
}
