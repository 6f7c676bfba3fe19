// Package verifier takes sample evidence, which proves nothing: it compares
// report data and gives the published claims. It cannot be had without the word
// InsecureSample, and serves simulated namespaces only.
//
// Invariants: every result is simulated; initdata is echoed as published and
// never called verified, so no secret that is bound to it is released.
//
// Trust zone: trustee, simulated namespaces; tests.
package verifier

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/sample"
	"github.com/cofferproject/coffer/tee/verify"
)

// Component names this verifier in denials.
const Component = "sample-verifier"

// ReasonEvidenceMalformed is explained in docs/denials.md.
const ReasonEvidenceMalformed denial.Reason = "sample-evidence-malformed"

// Note is what every result says of itself.
const Note = "sample evidence: no TEE, no signature, nothing is protected"

// Switch is the explicit choice to take evidence that proves nothing. The zero
// value is no choice.
type Switch int

// InsecureSample takes sample evidence.
const InsecureSample Switch = 1

// Verifier takes the evidence of one of the two names.
type Verifier struct{ tee string }

var _ verify.Verifier = (*Verifier)(nil)

// New refuses everything but InsecureSample and a simulated namespace. tee is
// sample.WireName or sample.DeviceWireName.
func New(s Switch, tee string, c verify.Config) (*Verifier, error) {
	switch {
	case s != InsecureSample:
		return nil, errors.New("sample verifier: InsecureSample was not chosen")
	case c.Kind != verify.InsecureSimulated:
		return nil, errors.New("sample verifier: only for simulated namespaces")
	case tee != sample.WireName && tee != sample.DeviceWireName:
		return nil, fmt.Errorf("sample verifier: TEE %.40q", tee)
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Verifier{tee}, nil
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := sample.Parse(in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonEvidenceMalformed, Component, "evidence", err)
	}
	if !in.InsecureSkipReportData && !bytes.Equal(e.ReportData, in.ReportData) {
		return nil, verify.Mismatch(verify.ReasonReportData, Component, "report data", hex.EncodeToString(e.ReportData), hex.EncodeToString(in.ReportData), "nonce and TEE key of this session")
	}
	r := &verify.Result{
		TEE: v.tee, Class: verify.ClassCPU, Simulated: true, SimulationNote: Note,
		Claims: map[string]any{
			"svn": e.SVN, "report_data": base64.StdEncoding.EncodeToString(e.ReportData), "launch_digest": "abcde",
			"platform_version": map[string]any{"major": 1, "minor": 4}, "debug": false,
		},
	}
	if v.tee == sample.DeviceWireName {
		r.Class = verify.ClassGPU
		if in.Initdata != nil {
			return nil, verify.Deny(verify.ReasonInitdataUnbound, Component, "initdata", errors.New("devices bind none; the CPU's evidence does"))
		}
	} else if in.Initdata != nil {
		d, err := initdata.Parse(in.Initdata)
		if err != nil {
			return nil, verify.Deny(verify.ReasonInitdataMalformed, Component, "initdata", err)
		}
		sum, err := initdata.Digest(d.Algorithm, in.Initdata)
		if err != nil {
			return nil, verify.Deny(verify.ReasonInitdataMalformed, Component, "initdata", err)
		}
		// Published: what was expected, echoed. Nothing measured it.
		r.Claims["init_data"] = base64.StdEncoding.EncodeToString(sum)
	}
	r.Checked("report data", hex.EncodeToString(e.ReportData), "nonce and TEE key of this session; nobody signed it")
	return []*verify.Result{r}, nil
}
