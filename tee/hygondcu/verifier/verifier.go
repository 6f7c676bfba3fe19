// Package verifier checks the reports of Hygon accelerators (wire name
// "hygondcu"): each chip's signature and the chain to Hygon's root key.
// tee/hygondcu/SPEC.md lists what is checked, in order.
//
// Invariants: no report of a device was ever seen, so nothing is accepted unless
// that is allowed by name; every device is in the verdict, once. The verdict is a
// pure function of the input and the configuration.
//
// Trust zone: trustee and owner.
package verifier

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/csv"
	"github.com/cofferproject/coffer/tee/csv/chain"
	"github.com/cofferproject/coffer/tee/hygondcu"
	"github.com/cofferproject/coffer/tee/verify"
)

// Component names this verifier in denials.
const Component = "hygondcu-verifier"

// Unproven must be in Config.AllowUnproven.
const Unproven = "hygondcu"

// Reasons of this verifier; the shared ones are in package verify.
const (
	ReasonMalformed denial.Reason = "hygondcu-evidence-malformed"
	ReasonHSK       denial.Reason = "hygondcu-hsk-untrusted"
	ReasonCEK       denial.Reason = "hygondcu-cek-untrusted"
	ReasonSignature denial.Reason = "hygondcu-report-signature"
	ReasonDuplicate denial.Reason = "hygondcu-device-twice"
)

// Config is what the verifier may believe.
type Config = chain.Config

// Verifier implements verify.Verifier.
type Verifier struct{ chain *chain.Verifier }

// New makes a verifier.
func New(cfg Config) (*Verifier, error) {
	c, err := chain.New(Component, ReasonHSK, ReasonCEK, cfg)
	if err != nil {
		return nil, err
	}
	return &Verifier{c}, nil
}

// Verify implements verify.Verifier: one result a device.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := hygondcu.Parse(in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, Component, "evidence", err)
	}
	if err := v.chain.Production(); err != nil {
		return nil, err
	}
	if err := v.chain.Config.Unproven(Component, Unproven); err != nil {
		return nil, err
	}
	if in.Initdata != nil {
		return nil, verify.Deny(verify.ReasonInitdataUnbound, Component, "initdata", errors.New("accelerators bind none; the CPU's evidence does"))
	}
	var out []*verify.Result
	seen := map[string]bool{}
	for i := range e.Reports {
		rep := &e.Reports[i]
		chip, err := rep.Chip()
		if err != nil {
			return nil, verify.Deny(ReasonMalformed, Component, fmt.Sprintf("report %d", i), err)
		}
		if seen[chip] {
			return nil, verify.Mismatch(ReasonDuplicate, Component, fmt.Sprintf("report %d: chip id", i), chip, "one report a device", "evidence")
		}
		seen[chip] = true
		r, err := v.report(rep, chip, in)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (v *Verifier) report(rep *hygondcu.Report, chip string, in *verify.Input) (*verify.Result, error) {
	r := &verify.Result{TEE: hygondcu.WireName, Class: verify.ClassDCU, Unproven: []string{Unproven}, Claims: claims(rep)}
	hsk, cek, err := v.chain.FromCollateral(chip)
	if err != nil {
		return nil, err
	}
	key, err := v.chain.Chip(hsk, cek, chip, chain.KeyService+chip, r)
	if err != nil {
		return nil, err
	}
	if rep.SigAlgo != csv.AlgSM2 || !key.Verify(rep.Body(), rep.Signature()) {
		return nil, verify.Deny(ReasonSignature, Component, "signature of chip "+chip, errors.New("no SM2 signature of the chip's endorsement key"))
	}
	r.Checked("report signature", "chip "+chip, "CEK")
	if err := verify.CheckReportData(Component, rep.UserData[:], in, r); err != nil {
		return nil, err
	}
	return r, nil
}

// claims gives the published names and forms.
func claims(rep *hygondcu.Report) map[string]any {
	h := hex.EncodeToString
	return map[string]any{"body": map[string]any{
		"version": int64(rep.Version), "chip_id": h(rep.ChipID[:]), "user_data": h(rep.UserData[:]), "measure": h(rep.Measure[:]), "reserved": h(rep.Reserved[:]),
		"sig_usage": fmt.Sprintf("%x", rep.SigUsage), "sig_algo": fmt.Sprintf("%x", rep.SigAlgo),
	}}
}
