package verifier

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/verify"
)

// Trust is what a namespace believes of TPMs, beside verify.Config.
type Trust struct {
	// CredentialKey is the server's secret, see Config.
	CredentialKey []byte
	// EKRoots, EKIntermediates and EnrolledAKs are for production only.
	EKRoots, EKIntermediates []*x509.Certificate
	EnrolledAKs              []string
	// References may explain the event log.
	References []*refvalue.Bundle
}

// TEE is the TPM verifier under the contract that all TEEs share, with the
// challenge that TPMs alone need. It is immutable.
type TEE struct{ v *Verifier }

var _ verify.Verifier = (*TEE)(nil)

// NewTEE makes a TEE. c.SimulatedRoots anchor endorsement keys in a simulated
// namespace.
func NewTEE(c verify.Config, t Trust) (*TEE, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	cfg := Config{
		Simulated: c.Kind, CredentialKey: t.CredentialKey, EKRoots: t.EKRoots, EKIntermediates: t.EKIntermediates,
		SimulatedRoots: c.SimulatedRoots, EnrolledAKs: t.EnrolledAKs, References: t.References,
		Collateral: c.Collateral, InsecureExpiredCollateral: c.InsecureExpiredCollateral,
	}
	v, err := New(cfg)
	if err != nil {
		return nil, err
	}
	return &TEE{v}, nil
}

// Challenge makes the credential for a session, see Verifier.Challenge; nil for
// a client that sent no endorsement certificate.
func (t *TEE) Challenge(req *kbs.TPMRequest, nonce string) (*kbs.TPMChallenge, error) {
	return t.v.Challenge(req, nonce)
}

// Verify implements verify.Verifier. What Verifier.Verify says about the order
// of checks holds. The endorsement certificate comes from in.RequestExtra; with
// InsecureSkipReportData its credential is not checked either, since that too
// is a proof of freshness.
func (t *TEE) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	x, err := (&kbs.Request{ExtraParams: in.RequestExtra}).Extra()
	if err != nil {
		return nil, deny(ReasonEvidenceMalformed, "extra-params", err)
	}
	got, err := t.v.verify(Input{
		Evidence: in.Evidence, Request: x.TPM, Nonce: in.Nonce, RuntimeDataHash: in.ReportData, Initdata: in.Initdata, Now: in.Now,
		skipReportData: in.InsecureSkipReportData, skipInitdata: in.InsecureSkipInitdata, missing: in.Missing,
	})
	if err != nil {
		return nil, err
	}
	r := &verify.Result{
		TEE: tpm.WireName, Class: verify.ClassCPU, Claims: got.Claims, Detail: map[string]any{"events": got.Events},
		Simulated: got.Simulated, SimulationNote: got.Simulation, Debug: strings.Contains(got.Reference.Image, "debug"), InitdataDoc: got.Initdata,
	}
	delete(r.Claims, "events") // long, and in the record
	got.checks(in, r)
	if got.InitdataDigest != nil {
		r.Initdata = &ear.Digest{Algorithm: string(initdata.SHA256), Hex: hex.EncodeToString(got.InitdataDigest)}
		r.Checked("initdata", r.Initdata.String(), "PCR 8, extended once")
	}
	return []*verify.Result{r}, nil
}

// checks says in order what was verified.
func (r *Result) checks(in *verify.Input, out *verify.Result) {
	out.Checked("attestation key", r.AKName, "restricted, made in and bound to its TPM")
	switch {
	case r.EKFingerprint == "":
		out.Checked("enrolment", r.AKName, "attestation keys of the namespace")
	case in.InsecureSkipReportData:
		out.Checked("endorsement key", r.EKFingerprint, "root "+r.EKRoot)
	default:
		out.Checked("endorsement key", r.EKFingerprint, "root "+r.EKRoot)
		out.Checked("credential", "activated", "both keys live in one TPM, this session")
	}
	if r.EKFingerprint != "" {
		out.Checked("EK revocation", string(r.EKRevocation), "makers' lists at hand")
	}
	out.Checked("quote signature", "", "attestation key")
	if !in.InsecureSkipReportData {
		out.Checked("report data", hex.EncodeToString(r.reportData), "nonce and TEE key of this session")
	}
	out.Checked("PCR values", fmt.Sprintf("%d registers of the SHA-256 bank", len(r.quoted)), "digest in the quote")
	out.Checked("run-time events", fmt.Sprintf("%d events", len(r.RuntimeEvents)), fmt.Sprintf("PCR %d", refvalue.PCREvents))
	out.Checked("event log", fmt.Sprintf("%d events", len(r.Events)), fmt.Sprintf("%s (image %s, %d MiB)", r.Reference.Source, r.Reference.Image, r.Reference.MemoryMiB))
}
