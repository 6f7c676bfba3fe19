// Package verifier judges the evidence of Azure's confidential VMs: the
// hardware's report, through it the paravisor's runtime claims, through them the
// vTPM's quote, through it the guest (tee/azure/SPEC.md; shared facts: trustee
// 4.5 and 4.6).
//
// Invariants: no network, no files; outside in: nothing is parsed beyond a layout
// before a signature or hash covers it; a quote covers all registers of one bank;
// evidence whose hardware report is not bound to the session is off until the
// caller asks for it; every refusal is a typed denial.
//
// Trust zone: trustee and owner.
package verifier

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/tpm/quote"
	"github.com/cofferproject/coffer/tee/verify"
)

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonMalformed       denial.Reason = "azure-evidence-malformed"
	ReasonReportUnbound   denial.Reason = "azure-report-unbound"
	ReasonHCLMalformed    denial.Reason = "azure-hcl-malformed"
	ReasonHCLType         denial.Reason = "azure-hcl-type"
	ReasonClaimsMismatch  denial.Reason = "azure-runtime-claims-mismatch"
	ReasonClaimsMalformed denial.Reason = "azure-runtime-claims-malformed"
	ReasonUserData        denial.Reason = "azure-user-data-mismatch"
	ReasonTDReport        denial.Reason = "azure-tdreport-mismatch"
	ReasonQuoteMalformed  denial.Reason = "azure-quote-malformed"
	ReasonQuoteSignature  denial.Reason = "azure-quote-signature"
	ReasonQuoteSelection  denial.Reason = "azure-quote-selection"
	ReasonQuoteDigest     denial.Reason = "azure-quote-digest"
)

// Options are choices beyond verify.Config.
type Options struct {
	// InsecureAcceptUnboundReport takes evidence of versions 0 and 1: there the
	// hardware's report may be of an earlier boot or paravisor than the quote.
	InsecureAcceptUnboundReport bool
}

// hardware is what the two TEEs differ in.
type hardware interface {
	// verify checks the hardware's report inside h with what else is in e, and
	// gives its report data. Claims, Checks, Debug and Unproven go into res.
	verify(e *azure.Evidence, h *azure.HCL, now time.Time, res *verify.Result) (reportData []byte, err error)
}

// Verifier judges the evidence of one of the TEEs. It is immutable but for
// caches, and safe for concurrent use.
type Verifier struct {
	tee       string
	component string
	cfg       verify.Config
	opt       Options
	hw        hardware
	quotes    quote.Checker
}

var _ verify.Verifier = (*Verifier)(nil)

func newVerifier(tee string, cfg verify.Config, o Options, hw hardware) *Verifier {
	component := tee + "-verifier"
	return &Verifier{
		tee: tee, component: component, cfg: cfg, opt: o, hw: hw,
		quotes: quote.Checker{
			Component: component, Malformed: ReasonQuoteMalformed, Signature: ReasonQuoteSignature, Selection: ReasonQuoteSelection, Digest: ReasonQuoteDigest,
		},
	}
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := azure.Parse(v.tee, in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, v.component, "evidence", err)
	}
	res, err := v.cfg.Kind.NewResult(v.component, v.tee, verify.ClassCPU, e.Simulation)
	if err != nil {
		return nil, err
	}
	if err := v.checkVersion(e, in, res); err != nil {
		return nil, err
	}
	rc, err := v.runtimeClaims(e, in.Now, res)
	if err != nil {
		return nil, err
	}
	pcrs, err := v.checkQuote(e, rc, in, res)
	if err != nil {
		return nil, err
	}
	if err := v.checkInitdata(pcrs, in, res); err != nil {
		return nil, err
	}
	events, err := quote.Events(v.component, e.Entries, pcrs[refvalue.PCREvents])
	if err != nil {
		return nil, err
	}
	quote.EventClaims(res.Claims, events)
	res.Checked("run-time events", fmt.Sprintf("%d events", len(events)), fmt.Sprintf("PCR %d", refvalue.PCREvents))
	res.Claims["evidence_version"] = e.Version
	if rc.VMConfiguration != nil {
		res.Claims["vm_configuration"] = rc.VMConfiguration
	}
	if e.Simulation != "" {
		res.Claims["simulation"] = e.Simulation
	}
	return []*verify.Result{res}, nil
}

// checkVersion judges what the evidence's version leaves unbound.
func (v *Verifier) checkVersion(e *azure.Evidence, in *verify.Input, res *verify.Result) error {
	switch {
	case e.Version < 2 && !v.opt.InsecureAcceptUnboundReport && !in.InsecureSkipReportData:
		return verify.Mismatch(ReasonReportUnbound, v.component, "evidence version", fmt.Sprint(e.Version),
			"2, in which the hardware signs the session's data", "options of this verifier")
	case e.Version < 2:
		res.Claims["hcl_report_unbound"] = true
	}
	if v.tee == azure.TDX && e.Version == 2 {
		if err := v.cfg.Unproven(v.component, UnprovenTDXv2); err != nil {
			return err
		}
		res.Unproven = append(res.Unproven, UnprovenTDXv2)
	}
	return nil
}

// runtimeClaims gives what the paravisor says, once the hardware has vouched for
// the paravisor and for every byte of it.
func (v *Verifier) runtimeClaims(e *azure.Evidence, now time.Time, res *verify.Result) (*azure.RuntimeClaims, error) {
	h, err := azure.ParseHCL(e.HCLReport)
	if err != nil {
		return nil, verify.Deny(ReasonHCLMalformed, v.component, "HCL report", err)
	}
	if h.TEE != v.tee {
		return nil, verify.Mismatch(ReasonHCLType, v.component, "HCL report type", h.TEE, v.tee, "TEE of this session")
	}
	field, err := v.hw.verify(e, h, now, res)
	if err != nil {
		return nil, err
	}
	sum := h.ClaimsHash()
	if got, want := hex.EncodeToString(field), hex.EncodeToString(initdata.Fit(sum[:], len(field))); got != want {
		return nil, verify.Mismatch(ReasonClaimsMismatch, v.component, "hardware report data", got, want, "SHA-256 of the runtime claims")
	}
	res.Checked("runtime claims", hex.EncodeToString(sum[:]), "hardware report data")
	rc, err := azure.ParseRuntimeClaims(h.RuntimeClaims)
	if err != nil {
		return nil, verify.Deny(ReasonClaimsMalformed, v.component, "runtime claims", err)
	}
	return rc, nil
}

var allPCRs = func() []int {
	out := make([]int, azure.PCRCount)
	for i := range out {
		out[i] = i
	}
	return out
}()

// checkQuote judges the vTPM's quote and what binds the claims to the session.
func (v *Verifier) checkQuote(e *azure.Evidence, rc *azure.RuntimeClaims, in *verify.Input, res *verify.Result) (map[int][32]byte, error) {
	if err := v.quotes.VerifyRSASSA(rc.AK, e.Quote.Signature, e.Quote.Message); err != nil {
		return nil, err
	}
	res.Checked("TPM quote signature", "RSASSA with SHA-256", azure.AKName+" of the runtime claims")
	q, err := v.quotes.Parse(e.Quote.Message)
	if err != nil {
		return nil, err
	}
	data := in.ReportData
	if in.InsecureSkipReportData {
		data = q.ExtraData
	}
	const source = "nonce and TEE key of this session"
	if got, want := hex.EncodeToString(q.ExtraData), hex.EncodeToString(data); got != want {
		return nil, verify.Mismatch(verify.ReasonReportData, v.component, "report data", got, want, source)
	}
	res.Claims["report_data"] = hex.EncodeToString(data)
	if !in.InsecureSkipReportData {
		res.Checked("report data", hex.EncodeToString(data), source)
	}
	pcrs, err := quote.Values(&v.quotes, q, e.Quote.PCRs, allPCRs)
	if err != nil {
		return nil, err
	}
	res.Checked("PCR values", fmt.Sprintf("%d registers of the SHA-256 bank", len(pcrs)), "digest in the TPM quote")
	values := make(map[string]any, len(pcrs))
	for i, p := range pcrs {
		values[fmt.Sprintf("pcr%02d", i)] = hex.EncodeToString(p[:])
	}
	res.Claims["tpm"] = values
	if e.Version == 2 {
		if got, want := hex.EncodeToString(rc.UserData), hex.EncodeToString(initdata.Fit(data, azure.UserDataSize)); got != want || len(data) > azure.UserDataSize {
			return nil, verify.Mismatch(ReasonUserData, v.component, "user-data of the runtime claims", got, want, source)
		}
		res.Checked("user-data", hex.EncodeToString(data), "runtime claims, under the hardware's signature")
	}
	return pcrs, nil
}

func (v *Verifier) checkInitdata(pcrs map[int][32]byte, in *verify.Input, res *verify.Result) error {
	i := quote.Initdata{Component: v.component, TEE: v.tee, Plain: in.Initdata, InsecureSkip: in.InsecureSkipInitdata, ZeroIsNone: true}
	p := pcrs[refvalue.PCRInitdata]
	res.Claims["init_data"] = hex.EncodeToString(p[:])
	b, err := i.Check(p)
	if err != nil {
		return err
	}
	if b.Document != nil {
		res.InitdataDoc, res.Initdata = b.Document, &ear.Digest{Algorithm: string(initdata.SHA256), Hex: hex.EncodeToString(b.Digest)}
		res.Checked("initdata", res.Initdata.String(), "PCR 8, extended once")
	}
	return nil
}
