// Package verifier checks Hygon CSV evidence (wire name "csv"): the report's
// signature and the chain PEK, CEK, HSK to Hygon's root key. tee/csv/SPEC.md lists
// what is checked, in order.
//
// Invariants: no outside vector has HSK and CEK, so the chain is unproven and
// nothing is accepted unless that is allowed by name. CSV binds no initdata, so
// evidence that comes with a document is denied. The verdict is a pure function
// of the input and the configuration.
//
// Trust zone: trustee and owner.
package verifier

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/csv"
	"github.com/cofferproject/coffer/tee/csv/chain"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/verify"
)

// Component names this verifier in denials.
const Component = "csv-verifier"

// What Config.AllowUnproven must name.
const (
	UnprovenChain = "csv-chain"     // HRK, HSK, CEK, PEK: the vector ends with the PEK
	UnprovenV2    = "csv-report-v2" // the vector has a report of version 1
)

// KeyService is the origin of a chip's collateral, without its serial number.
const KeyService = chain.KeyService

// Reasons of this verifier; the shared ones are in package verify.
const (
	ReasonMalformed       denial.Reason = "csv-evidence-malformed"
	ReasonSigner          denial.Reason = "csv-signer-mismatch"
	ReasonHSK             denial.Reason = "csv-hsk-untrusted"
	ReasonCEK             denial.Reason = "csv-cek-untrusted"
	ReasonPEK             denial.Reason = "csv-pek-untrusted"
	ReasonReportSignature denial.Reason = "csv-report-signature"
	ReasonEventLog        denial.Reason = "csv-eventlog-malformed"
	ReasonReplay          denial.Reason = "csv-eventlog-replay"
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

// Verify implements verify.Verifier.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := csv.Parse(in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, Component, "evidence", err)
	}
	rep, err := e.ParseReport()
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, Component, "attestation report", err)
	}
	serial, err := e.SerialNumber()
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, Component, "serial number", err)
	}
	if err := v.chain.Production(); err != nil {
		return nil, err
	}
	r := &verify.Result{TEE: csv.WireName, Class: verify.ClassCPU, Claims: claims(rep, serial), Detail: map[string]any{}}
	if err := v.unproven(rep, r); err != nil {
		return nil, err
	}
	if err := v.signatures(e, rep, serial, r); err != nil {
		return nil, err
	}
	if err := verify.CheckReportData(Component, rep.ReportData, in, r); err != nil {
		return nil, err
	}
	if in.Initdata != nil {
		return nil, verify.Mismatch(verify.ReasonInitdataUnbound, Component, "initdata", "a document", "none: CSV binds no initdata", "attestation request")
	}
	r.Debug = !rep.Policy.NoDebug()
	r.Checked("guest policy", fmt.Sprintf("%#08x", uint32(rep.Policy)), "report")
	if err := replay(e, rep, r); err != nil {
		return nil, err
	}
	return []*verify.Result{r}, nil
}

func (v *Verifier) unproven(rep *csv.Report, r *verify.Result) error {
	what := []string{UnprovenChain}
	if rep.Version == 2 {
		what = append(what, UnprovenV2)
	}
	for _, w := range what {
		if err := v.chain.Config.Unproven(Component, w); err != nil {
			return err
		}
		r.Unproven = append(r.Unproven, w)
	}
	return nil
}

// signatures checks the report under its PEK, then the chain up to the root.
func (v *Verifier) signatures(e *csv.Evidence, rep *csv.Report, serial string, r *verify.Result) error {
	if rep.PEK != e.PEK {
		return verify.Mismatch(ReasonSigner, Component, "PEK", "another one in the report than in cert_chain", "the same", "evidence")
	}
	if rep.Serial != e.Serial {
		return verify.Mismatch(ReasonSigner, Component, "serial number", hex.EncodeToString(e.Serial[:]), hex.EncodeToString(rep.Serial[:]), "report")
	}
	pek, err := v.pek(e, serial, r)
	if err != nil {
		return err
	}
	if rep.SigUsage != csv.UsagePEK || rep.SigAlgo != csv.AlgSM2 {
		return verify.Mismatch(ReasonReportSignature, Component, "report signature", fmt.Sprintf("usage %#x, algorithm %#x", rep.SigUsage, rep.SigAlgo), fmt.Sprintf("usage %#x, algorithm %#x", csv.UsagePEK, csv.AlgSM2), "report")
	}
	if !pek.Verify(rep.Signed, rep.Signature) {
		return verify.Deny(ReasonReportSignature, Component, "report signature", errors.New("does not verify with the PEK"))
	}
	r.Checked("report signature", fmt.Sprintf("version %d", rep.Version), "PEK")
	return nil
}

// pek gives the PEK's key, after the chain above it has vouched for it.
func (v *Verifier) pek(e *csv.Evidence, serial string, r *verify.Result) (*chain.Signer, error) {
	hsk, cek, source := e.HSK, e.CEK, "evidence"
	if hsk == nil {
		var err error
		if hsk, cek, err = v.chain.FromCollateral(serial); err != nil {
			return nil, err
		}
		source = KeyService + serial
	}
	c, err := v.chain.Chip(hsk, cek, serial, source, r)
	if err != nil {
		return nil, err
	}
	p, err := chain.CertSigner(&e.PEK, csv.UsagePEK)
	if err != nil {
		return nil, verify.Deny(ReasonPEK, Component, "PEK", err)
	}
	if !chain.SignedBy(&e.PEK, csv.UsageCEK, c) {
		return nil, verify.Deny(ReasonPEK, Component, "PEK", errors.New("no signature of the CEK"))
	}
	r.Checked("PEK", "", "CEK")
	return p, nil
}

// replay compares the event log with the run-time registers. Version 1 has none,
// so that a log that comes with it is worth nothing, and no claim shows it.
func replay(e *csv.Evidence, rep *csv.Report, r *verify.Result) error {
	if e.EventLog == nil {
		return nil
	}
	l, err := eventlog.ParseCC(e.EventLog)
	if err != nil {
		return verify.Deny(ReasonEventLog, Component, "event log", err)
	}
	if rep.Version == 1 {
		if len(l.Events) > 0 {
			r.Checked("event log", fmt.Sprintf("%d events ignored", len(l.Events)), "nothing: reports of version 1 have no run-time registers")
		}
		return nil
	}
	err = l.CheckRTMRs(eventlog.SM3, [eventlog.RTMRs][]byte(rep.RTMR[1:]))
	var bent *eventlog.ErrRTMR
	if errors.As(err, &bent) {
		// The log's register i+1 is the report's rtmr i+1.
		return verify.Mismatch(ReasonReplay, Component, fmt.Sprintf("rtmr%d", bent.Register+1), hex.EncodeToString(bent.Quoted), hex.EncodeToString(bent.Replayed), "replay of the event log")
	}
	if err != nil {
		return verify.Deny(ReasonEventLog, Component, "event log", err)
	}
	r.Claims["uefi_event_logs"] = l.Describe()
	r.Checked("event log", fmt.Sprintf("%d events", len(l.Events)), "rtmr1 to rtmr4")
	return nil
}

// claims gives the published names and forms.
func claims(rep *csv.Report, serial string) map[string]any {
	le := func(v uint32) string { return hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, v)) }
	h := hex.EncodeToString
	c := map[string]any{
		"version": fmt.Sprint(rep.Version), "policy": rep.Policy.Claims(), "user_pubkey_digest": h(rep.UserPubkeyDigest), "vm_id": h(rep.VMID),
		"vm_version": h(rep.VMVersion), "report_data": h(rep.ReportData), "mnonce": h(rep.MNonce), "measure": h(rep.Measure),
		"sig_usage": le(rep.SigUsage), "sig_algo": le(rep.SigAlgo), "serial_number": serial,
	}
	if rep.Version == 1 {
		c["anonce"] = le(rep.Anonce)
		return c
	}
	c["build"], c["rtmr_version"] = int64(rep.Build), int64(rep.RTMRVersion)
	c["reserved0"], c["reserved1"] = h(rep.Reserved0), h(rep.Reserved1)
	for i, m := range rep.RTMR {
		c[fmt.Sprintf("rtmr%d", i)] = h(m)
	}
	return c
}
