// Package verifier checks TPM 2.0 evidence: endorsement key against named
// roots, attestation key bound to it by credential activation, quote, registers,
// event log against reference values, initdata (design.md section 4, rules
// "TPM", "initdata", "Simulation").
//
// Invariants: a pure function of its inputs, no state and no network; every
// refusal is a *denial.Denial with a stable id; a Verifier cannot be made
// without saying whether it serves a simulated namespace, and roots of one kind
// are never used in a namespace of the other.
//
// Trust zone: trustee.
package verifier

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/internal/revocation"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/appraise"
	"github.com/cofferproject/coffer/tee/tpm/quote"
	"github.com/cofferproject/coffer/tee/verify"
)

// Component names this verifier in denials.
const Component = "tpm-verifier"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonEvidenceMalformed  denial.Reason = "tpm-evidence-malformed"
	ReasonEKMissing          denial.Reason = "tpm-ek-missing"
	ReasonEKUntrusted        denial.Reason = "tpm-ek-untrusted"
	ReasonEKRevoked          denial.Reason = "tpm-ek-revoked"
	ReasonAKMalformed        denial.Reason = "tpm-ak-malformed"
	ReasonAKAttributes       denial.Reason = "tpm-ak-attributes"
	ReasonAKMismatch         denial.Reason = "tpm-ak-mismatch"
	ReasonCredentialMismatch denial.Reason = "tpm-credential-mismatch"
	ReasonQuoteMalformed     denial.Reason = "tpm-quote-malformed"
	ReasonQuoteSignature     denial.Reason = "tpm-quote-signature"
	ReasonQuoteSelection     denial.Reason = "tpm-quote-selection"
	ReasonQuoteDigest        denial.Reason = "tpm-quote-digest"
)

// Reasons that all verifiers share.
const (
	ReasonSimulated           = verify.ReasonSimulated
	ReasonQuoteReportData     = verify.ReasonReportData
	ReasonInitdataMalformed   = verify.ReasonInitdataMalformed
	ReasonInitdataMismatch    = verify.ReasonInitdataMismatch
	ReasonInitdataUnexpected  = verify.ReasonInitdataUnexpected
	ReasonInitdataUnavailable = verify.ReasonInitdataMissing
)

// Config makes a Verifier. Simulated and exactly the roots of that kind must be
// given; there is no default.
type Config struct {
	// Simulated says that the namespace was created as simulated.
	Simulated verify.Kind
	// CredentialKey is the server's secret, 32 bytes or more, from which the
	// secrets of MakeCredential are derived; the same on all replicas.
	CredentialKey []byte
	// EKRoots and EKIntermediates are the manufacturers' certificates, for a
	// production namespace.
	EKRoots, EKIntermediates []*x509.Certificate
	// SimulatedRoots are the per-machine roots, for a simulated namespace.
	SimulatedRoots []*x509.Certificate
	// EnrolledAKs lists names of attestation keys (hex of the TPM's name,
	// algorithm included) that are accepted without an endorsement key.
	EnrolledAKs []string
	// References are the reference values that may explain the event log.
	References []*refvalue.Bundle
	// Collateral has the makers' revocation lists and OCSP responses, as far as
	// they are at hand; nil: none.
	Collateral collateral.Source
	// InsecureExpiredCollateral takes lists past their next update, for recorded
	// evidence. Never in the trustee.
	InsecureExpiredCollateral bool
}

// Kinds of namespaces.
const (
	Production        = verify.Production
	InsecureSimulated = verify.InsecureSimulated
)

// Verifier appraises evidence of one namespace. It is immutable.
type Verifier struct {
	cfg        Config
	revocation *revocation.Checker
}

// New refuses a configuration that leaves a security choice open.
func New(c Config) (*Verifier, error) {
	switch {
	case c.Simulated != Production && c.Simulated != InsecureSimulated:
		return nil, errors.New("tpm verifier: neither production nor simulated was chosen")
	case len(c.CredentialKey) < 32:
		return nil, errors.New("tpm verifier: credential key shorter than 32 bytes")
	case c.Simulated == Production && len(c.SimulatedRoots) > 0:
		return nil, errors.New("tpm verifier: simulated roots in a production namespace")
	case c.Simulated == InsecureSimulated && (len(c.EKRoots) > 0 || len(c.EKIntermediates) > 0 || len(c.EnrolledAKs) > 0):
		return nil, errors.New("tpm verifier: production trust in a simulated namespace")
	}
	c.CredentialKey = slices.Clone(c.CredentialKey)
	return &Verifier{c, &revocation.Checker{InsecureExpired: c.InsecureExpiredCollateral}}, nil
}

// Input is one attestation.
type Input struct {
	Evidence []byte // primary_evidence, JSON
	// Request is what the client sent in Request.extra-params of the same
	// session; nil if it sent none.
	Request *kbs.TPMRequest
	Nonce   string // of the session's challenge
	// RuntimeDataHash is kbs.RuntimeDataHash over the runtime data received.
	RuntimeDataHash []byte
	// Initdata is the document as received, nil if the client sent none.
	Initdata []byte
	Now      time.Time

	// For recorded evidence alone, see verify.Input; package-internal so that
	// the trustee cannot set them here.
	skipReportData, skipInitdata bool

	missing func(verify.Missing) // see verify.Input
}

// Result is what the evidence proves.
type Result struct {
	Simulated      bool
	Simulation     string // the evidence's own note
	EKFingerprint  string // hex SHA-256 of the endorsement key's SPKI; "" for an enrolled key
	EKRoot         string // hex SHA-256 of the root's SPKI
	EKRevocation   EKRevocation
	AKName         string // hex
	InitdataDigest []byte // of the accepted document; nil if the guest was started without
	Initdata       *initdata.Document
	Reference      *refvalue.Set // the set that explains the event log
	Events         []appraise.Explained
	// RuntimeEvents are those that the guest recorded, all of PCR 15.
	RuntimeEvents []eventlog.Event
	PCRs          [tpm.PCRCount][32]byte // zero where not quoted
	// Claims are the published claims of TEE "tpm" and ours, for the token.
	Claims map[string]any

	quoted     map[int][32]byte
	reportData []byte // qualifying data, as quoted
}

// Verify checks evidence and gives what it proves, or a *denial.Denial. Another
// kind of error is a fault of the caller.
func (v *Verifier) Verify(in Input) (*Result, error) {
	if in.Now.IsZero() || len(in.RuntimeDataHash) < tpm.QualifyingSize {
		return nil, errors.New("tpm verifier: time or runtime data hash missing")
	}
	return v.verify(in)
}

func (v *Verifier) verify(in Input) (*Result, error) {
	e, err := tpm.Parse(in.Evidence)
	if err != nil {
		return nil, deny(ReasonEvidenceMalformed, "tpm evidence", err)
	}
	if err := v.cfg.Simulated.CheckNote(Component, e.Simulation); err != nil {
		return nil, err
	}
	r := &Result{Simulated: v.cfg.Simulated == InsecureSimulated, Simulation: e.Simulation}
	ak, err := v.verifyAK(e, in, r)
	if err != nil {
		return nil, err
	}
	if err := verifyQuote(e, ak.key, in, r); err != nil {
		return nil, err
	}
	tee := "tpm"
	if r.Simulated {
		tee = "tpm-sim"
	}
	r.Reference, r.Events, err = appraise.EventLog(e.EventLog, r.PCRs, tee, v.cfg.References)
	if err != nil {
		return nil, err
	}
	if err := appraiseInitdata(in, r); err != nil {
		return nil, err
	}
	if r.RuntimeEvents, err = quote.Events(Component, e.Entries, r.PCRs[refvalue.PCREvents]); err != nil {
		return nil, err
	}
	r.Claims = claims(e, r)
	return r, nil
}

func deny(reason denial.Reason, claim string, err error) *denial.Denial {
	return &denial.Denial{Reason: reason, Component: Component, Claim: claim, Detail: fmt.Sprint(err)}
}
