// Package verifier judges SGX evidence: the quote (tee/intel), report data, and
// CONFIGID against the initdata document (SPEC.md, "What the verifier checks").
//
// Invariants: no network, no files; every refusal is a typed denial.
//
// Trust zone: trustee and owner.
package verifier

import (
	"encoding/hex"
	"fmt"
	"maps"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/sgx"
	"github.com/cofferproject/coffer/tee/verify"
)

const component = "sgx-verifier"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonMalformed  denial.Reason = "sgx-evidence-malformed"
	ReasonAttributes denial.Reason = "sgx-attributes"
)

// Verifier judges the published evidence of TEE "sgx".
type Verifier struct {
	kind   verify.Kind
	quotes *intel.Verifier
}

// New makes the verifier.
func New(cfg verify.Config) (verify.Verifier, error) {
	q, err := intel.New(cfg)
	if err != nil {
		return nil, err
	}
	return &Verifier{cfg.Kind, q}, nil
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := sgx.Parse(in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, component, "evidence", err)
	}
	res, err := v.kind.NewResult(component, sgx.WireName, verify.ClassCPU, e.Simulation)
	if err != nil {
		return nil, err
	}
	q, err := v.quotes.VerifyQuote(e.Quote, quote.SGX, in.Now)
	if err != nil {
		return nil, err
	}
	body := q.Quote.Enclave
	res.Debug = body.Attributes()&quote.FlagDebug != 0
	if err := checkAttributes(body); err != nil {
		return nil, err
	}
	q.AddTo(res)
	maps.Copy(res.Claims, Claims(q.Quote))
	if err := verify.CheckReportData(component, body.ReportData[:], in, res); err != nil {
		return nil, err
	}
	if err := verify.CheckInitdata(component, sgx.WireName, "CONFIGID", body.ConfigID[:], in, res); err != nil {
		return nil, err
	}
	return []*verify.Result{res}, nil
}

// checkAttributes refuses what no enclave of a pod is: one with the key that
// identifies the platform (only Intel's own enclaves have it), or one that the
// CPU has not started.
func checkAttributes(e *quote.Enclave) error {
	a := e.Attributes()
	if a&quote.FlagInit == 0 || a&quote.FlagProvision != 0 {
		return verify.Mismatch(ReasonAttributes, component, "ATTRIBUTES.FLAGS", fmt.Sprintf("%#x", a), "INIT, and not PROVISIONKEY", "quote")
	}
	return nil
}

// Claims gives the published claims of a quote with an enclave's body: bytes as
// they stand in the quote, in hex. Those of DCAP come from tee/intel.
func Claims(q *quote.Quote) map[string]any {
	b, h := q.Enclave, q.Header.Bytes()
	report, config := hex.EncodeToString(b.ReportData[:]), hex.EncodeToString(b.ConfigID[:])
	return map[string]any{
		"header": map[string]any{
			"version":        hex.EncodeToString(h[0:2]),
			"att_key_type":   hex.EncodeToString(h[2:4]),
			"att_key_data_0": hex.EncodeToString(h[4:8]),
			"qe_svn":         hex.EncodeToString(h[8:10]),
			"pce_svn":        hex.EncodeToString(h[10:12]),
			"vendor_id":      hex.EncodeToString(h[12:28]),
			"user_data":      hex.EncodeToString(h[28:48]),
		},
		"body": map[string]any{
			"cpu_svn":          hex.EncodeToString(b.CPUSVN[:]),
			"misc_select":      hex.EncodeToString(b.MiscSelect[:]),
			"reserved1":        hex.EncodeToString(b.Reserved1[:]),
			"isv_ext_prod_id":  hex.EncodeToString(b.ISVExtProdID[:]),
			"attributes.flags": hex.EncodeToString(b.Flags[:]),
			"attributes.xfrm":  hex.EncodeToString(b.XFRM[:]),
			"mr_enclave":       hex.EncodeToString(b.MREnclave[:]),
			"reserved2":        hex.EncodeToString(b.Reserved2[:]),
			"mr_signer":        hex.EncodeToString(b.MRSigner[:]),
			"reserved3":        hex.EncodeToString(b.Reserved3[:]),
			"config_id":        config,
			"isv_prod_id":      hex.EncodeToString(b.ISVProdID[:]),
			"isv_svn":          hex.EncodeToString(b.ISVSVN[:]),
			"config_svn":       hex.EncodeToString(b.ConfigSVN[:]),
			"reserved4":        hex.EncodeToString(b.Reserved4[:]),
			"isv_family_id":    hex.EncodeToString(b.ISVFamilyID[:]),
			"report_data":      report,
		},
		"report_data": report,
		"init_data":   config,
	}
}
