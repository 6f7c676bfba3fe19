// Package verify is the contract between the verifiers of all TEEs and those who
// ask them: the trustee's Attestation Service and `coffer verify`.
//
// A verifier is a pure function of evidence, collateral, what its Config trusts
// and the time: it opens no connection and no file. What it cannot check it
// denies; every skip is spelled Insecure.... It gives claims under their
// published names (shared facts: trustee, section 4); what they are worth is for
// a policy to say (tee/policy), except where a rule of design.md section 4 is
// exact.
//
// Trust zone: trustee and owner; the guest never links it.
package verify

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/collateral"
)

// Kind says which roots a verifier may believe. The zero value is none.
type Kind int

// Kinds of trust.
const (
	// Production: the vendors' embedded roots, and nothing that says it is simulated.
	Production Kind = iota + 1
	// InsecureSimulated: the roots of simulated hardware alone, never a vendor's.
	InsecureSimulated
)

// Device classes, as tokens name submodules ("cpu0", "gpu0").
const (
	ClassCPU    = "cpu"
	ClassGPU    = "gpu"
	ClassSwitch = "switch"
	ClassDCU    = "dcu"
	ClassDPU    = "nvidia-dpu"
)

// ClaimRuntimeEvents is the claim (addition) with the texts of what the guest
// recorded after its boot, a list of "<domain> <operation> <content>" in order
// (tee/aael/SPEC.md); absent without events. uefi_event_logs has the events whole.
const ClaimRuntimeEvents = "runtime_events"

// Reasons that all verifiers share. Others carry their TEE's name in front.
const (
	ReasonSimulated             denial.Reason = "simulated-evidence"     // in a production namespace
	ReasonNotSimulated          denial.Reason = "not-simulated"          // no simulation note, or a vendor's root, in a simulated namespace
	ReasonUnproven              denial.Reason = "unproven-verifier"      // no outside vector, and allow_unproven does not name it
	ReasonReportData            denial.Reason = "report-data-mismatch"   // another nonce or TEE key
	ReasonInitdataMismatch      denial.Reason = "initdata-mismatch"      // the register holds another digest
	ReasonInitdataMissing       denial.Reason = "initdata-missing"       // the register is set, and no document came
	ReasonInitdataUnexpected    denial.Reason = "initdata-unexpected"    // a document came, and the register is zero
	ReasonInitdataMalformed     denial.Reason = "initdata-malformed"     //
	ReasonInitdataUnbound       denial.Reason = "initdata-unbound"       // this TEE binds none, and a document came
	ReasonCollateralMissing     denial.Reason = "collateral-missing"     // Claim names its origin
	ReasonCollateralMalformed   denial.Reason = "collateral-malformed"   //
	ReasonCollateralUntrusted   denial.Reason = "collateral-untrusted"   // its signature or chain
	ReasonCollateralUnsupported denial.Reason = "collateral-unsupported" // a kind that is not understood
	ReasonCollateralExpired     denial.Reason = "collateral-expired"     //
)

// Config is what a verifier may believe.
type Config struct {
	Kind Kind
	// SimulatedRoots anchor simulated evidence, by SPKI: the roots made for each
	// machine that coffer-simhw plays. Empty in Production.
	SimulatedRoots []*x509.Certificate
	// AllowUnproven names verifiers and versions ("snp-report-v5", "nitro") that
	// no outside vector has shown to be right; Result.Unproven repeats them.
	AllowUnproven []string
	// Collateral is what was fetched ahead; nil: none.
	Collateral collateral.Source
	// InsecureSkipRevocation judges certificates without revocation lists, for
	// recorded evidence. Never in the trustee.
	InsecureSkipRevocation bool
	// InsecureExpiredCollateral takes collateral past its next update, for
	// recorded evidence; claims say so. Never in the trustee.
	InsecureExpiredCollateral bool
}

// Validate reports a choice that was not made, or two that exclude each other.
func (c *Config) Validate() error {
	switch {
	case c.Kind != Production && c.Kind != InsecureSimulated:
		return errors.New("verifier: neither production nor simulated trust was chosen")
	case c.Kind == Production && len(c.SimulatedRoots) > 0:
		return errors.New("verifier: roots of simulated hardware in production")
	}
	return nil
}

// Unproven denies, unless c names what: a verifier or version without an
// outside vector.
func (c *Config) Unproven(component, what string) error {
	if slices.Contains(c.AllowUnproven, what) {
		return nil
	}
	return &denial.Denial{
		Reason: ReasonUnproven, Component: component, Claim: what, Measured: "no outside vector has shown this verifier to be right",
		Expected: "allow_unproven: " + what, Source: "docs/tees.md",
	}
}

// Item gives the collateral of one origin, or a denial that names it.
func (c *Config) Item(component, origin string) (*collateral.Item, error) {
	if c.Collateral != nil {
		if it, ok := c.Collateral.Get(origin); ok {
			return it, nil
		}
	}
	return nil, &denial.Denial{
		Reason: ReasonCollateralMissing, Component: component, Claim: "collateral " + origin, Measured: "none",
		Expected: "fetched ahead, or imported from a bundle", Source: origin,
	}
}

// Verifier checks the evidence of one TEE. It is immutable and safe for
// concurrent use.
type Verifier interface {
	// Verify gives what the evidence proves, one Result a device (several for
	// GPUs, one else), or a *denial.Denial. Another kind of error is a fault of
	// the caller.
	Verify(in *Input) ([]*Result, error)
}

// Input is the evidence of one entry of tee-evidence.
type Input struct {
	// Evidence is primary_evidence, or one entry of additional_evidence.
	Evidence json.RawMessage
	// RequestExtra is Request.extra-params of the same session (TPM).
	RequestExtra json.RawMessage
	Nonce        string // of the session's challenge, as sent
	// ReportData is the runtime-data hash before it is fitted to the TEE's field.
	ReportData []byte
	// InsecureSkipReportData judges recorded evidence: freshness and the TEE key
	// are not checked. In the trustee only for callers of the Attestation Service's
	// own interface, by an insecure switch; the token says so.
	InsecureSkipReportData bool
	// Initdata is the plain document as received; nil: none came.
	Initdata []byte
	// InsecureSkipInitdata takes the register's value without a document: for
	// recorded evidence. In the trustee only where it compares the register itself,
	// with a digest that came without its document.
	InsecureSkipInitdata bool
	Now                  time.Time
	// Missing, if set, hears of collateral that would have told more, and was not at
	// hand or was out of date. It is told of nothing before the certificates in question
	// have led to a trusted root, and must not wait for anything.
	Missing func(Missing)
}

// Missing is a document that a verifier looked for.
type Missing struct {
	Origin string
	// Issuers are who signs it and who vouches for him, up to a root, as the verifier has
	// verified them; nil where the origin says who that is.
	Issuers []*x509.Certificate
}

// Miss tells Missing of an origin.
func (in *Input) Miss(origin string, issuers []*x509.Certificate) {
	if in.Missing != nil {
		in.Missing(Missing{origin, issuers})
	}
}

// Validate reports a fault of the caller.
func (in *Input) Validate() error {
	switch {
	case in.Now.IsZero():
		return errors.New("verifier: no time given")
	case len(in.ReportData) < 32 && !in.InsecureSkipReportData:
		return errors.New("verifier: no runtime data hash given")
	}
	return nil
}

// Result is what the evidence of one device proves.
type Result struct {
	TEE   string // wire name
	Class string // ClassCPU, ...
	// Claims are the published ones, with report_data and init_data (hex) among
	// them, then additions. They go through a policy and into the token.
	Claims map[string]any
	// Detail is for the owner's record only (long lists, events).
	Detail map[string]any
	// Checks says in order what was verified, for `coffer verify` and the record.
	Checks []Check
	// Simulated: from simulated hardware. Note is the evidence's own word on it.
	Simulated      bool
	SimulationNote string
	// Debug: the TEE lets its host look in (debug policy, debug attributes), or
	// the image is a debug variant.
	Debug bool
	// Unproven lists what this result rests on that no outside vector has shown.
	Unproven []string
	// Initdata is the verified document's digest and content; nil if the guest
	// was started without.
	Initdata    *ear.Digest
	InitdataDoc *initdata.Document
}

// NewResult begins the result of one device, under a wire name and a class, after
// CheckNote.
func (k Kind) NewResult(component, tee, class, note string) (*Result, error) {
	if err := k.CheckNote(component, note); err != nil {
		return nil, err
	}
	return &Result{TEE: tee, Class: class, Claims: map[string]any{}, Simulated: k == InsecureSimulated, SimulationNote: note}, nil
}

// CheckNote keeps simulated and real evidence apart: note is the evidence's own
// word on what of it is not real, "" where all is.
func (k Kind) CheckNote(component, note string) error {
	switch {
	case note != "" && k != InsecureSimulated:
		return Mismatch(ReasonSimulated, component, "simulation", note, "none", "a production namespace")
	case note == "" && k == InsecureSimulated:
		return Mismatch(ReasonNotSimulated, component, "simulation", "no note", "a note", "a simulated namespace")
	}
	return nil
}

// Check is one verified fact: "report signature", "VCEK", "SPKI 1f..".
type Check struct {
	What   string `json:"what"`
	Found  string `json:"found,omitempty"`  // what the evidence says
	Source string `json:"source,omitempty"` // what it was checked against
}

// Checked adds a check.
func (r *Result) Checked(what, found, source string) {
	r.Checks = append(r.Checks, Check{what, found, source})
}

// Deny makes a denial from an error.
func Deny(reason denial.Reason, component, claim string, err error) error {
	return &denial.Denial{Reason: reason, Component: component, Claim: claim, Detail: fmt.Sprint(err)}
}

// Mismatch makes a denial from two values.
func Mismatch(reason denial.Reason, component, claim, measured, expected, source string) error {
	return &denial.Denial{Reason: reason, Component: component, Claim: claim, Measured: measured, Expected: expected, Source: source}
}

// CheckReportData compares the TEE's report-data field with the session's
// runtime-data hash, fitted to its size (truncated, or padded with zeros).
func CheckReportData(component string, field []byte, in *Input, r *Result) error {
	if r.Claims != nil {
		r.Claims["report_data"] = hex.EncodeToString(field)
	}
	if in.InsecureSkipReportData {
		return nil
	}
	if want := initdata.Fit(in.ReportData, len(field)); !slices.Equal(field, want) {
		return Mismatch(ReasonReportData, component, "report data", hex.EncodeToString(field), hex.EncodeToString(want), "nonce and TEE key of this session")
	}
	r.Checked("report data", hex.EncodeToString(field), "nonce and TEE key of this session")
	return nil
}

// CheckInitdata compares a launch-bound register (HOST_DATA, MRCONFIGID,
// CONFIGID, RPV) with the digest of the document by the one algorithm of the
// TEE (design.md section 4), then parses the document: a zero register with a
// document, and a value without one, are denied. tee is the wire name.
func CheckInitdata(component, tee, name string, register []byte, in *Input, r *Result) error {
	if r.Claims != nil {
		r.Claims["init_data"] = hex.EncodeToString(register)
	}
	zero := !slices.ContainsFunc(register, func(b byte) bool { return b != 0 })
	if in.Initdata == nil {
		if zero || in.InsecureSkipInitdata {
			return nil
		}
		return Mismatch(ReasonInitdataMissing, component, name+": initdata", hex.EncodeToString(register), "the document that was measured", "attestation request")
	}
	alg, err := initdata.AlgorithmFor(tee)
	if err != nil {
		return Deny(ReasonInitdataUnbound, component, "initdata", err)
	}
	if zero {
		return Mismatch(ReasonInitdataUnexpected, component, name+": initdata", hex.EncodeToString(register), "the digest of the document that came", "attestation request")
	}
	sum, err := initdata.Digest(alg, in.Initdata)
	if err != nil {
		return err
	}
	if want := initdata.Fit(sum, len(register)); !slices.Equal(register, want) {
		return Mismatch(ReasonInitdataMismatch, component, name+": initdata", hex.EncodeToString(register), hex.EncodeToString(want), string(alg)+" of the document that came")
	}
	doc, err := parseInitdata(alg, sum, in.Initdata)
	if err == nil {
		err = doc.CheckAlgorithm(tee)
	}
	if err != nil {
		return Deny(ReasonInitdataMalformed, component, "initdata", err)
	}
	r.InitdataDoc, r.Initdata = doc, &ear.Digest{Algorithm: string(alg), Hex: hex.EncodeToString(sum)}
	r.Checked("initdata", r.Initdata.String(), name)
	return nil
}
