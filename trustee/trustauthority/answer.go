package trustauthority

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/tenant"
)

const (
	issuer   = "Coffer-KBS"
	policies = "intel-trust-authority" // instead of a policy of this trustee
	maxClaim = 256                     // bytes of a text that goes on into the token
)

// fields say where a TEE's facts are among the service's claims.
var fields = map[string]struct {
	kind, report, initdata string
	debug                  []string // each must be false
	sizes                  [2]int   // of report data and of the register of initdata, in bytes
}{
	"tdx": {"TDX", "tdx_report_data", "tdx_mrconfigid", []string{"tdx_is_debuggable", "tdx_td_attributes_debug"}, [2]int{64, 48}},
	"sgx": {"SGX", "sgx_report_data", "sgx_config_id", []string{"sgx_is_debuggable"}, [2]int{64, 64}},
}

// answered holds the claims of a token to the question, and gives what they prove.
func (q *question) answered(c *claims, now time.Time) (*verify.Result, error) {
	f := fields[q.tee]
	raw := c.TDX
	if q.tee == "sgx" {
		raw = c.SGX
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil || m == nil {
		return nil, unlike(f.kind+" claims", "none", "the claims of this TEE")
	}
	if m["attester_type"] != f.kind {
		return nil, unlike("attester_type", fmt.Sprintf("%.40v", m["attester_type"]), f.kind)
	}
	r, err := verify.Production.NewResult(Component, q.tee, verify.ClassCPU, "")
	if err != nil {
		return nil, err
	}
	q.input.Now = now
	report, err := register(m, f.report, f.sizes[0])
	if err != nil {
		return nil, err
	}
	if err := verify.CheckReportData(Component, report, &q.input, r); err != nil {
		return nil, err
	}
	bound, err := register(m, f.initdata, f.sizes[1])
	if err != nil {
		return nil, err
	}
	if err := verify.CheckInitdata(Component, q.tee, f.initdata, bound, &q.input, r); err != nil {
		return nil, err
	}
	if err := undemanded(r); err != nil {
		return nil, err
	}
	// What is not said counts as yes.
	r.Debug = slices.ContainsFunc(f.debug, func(k string) bool { return m[k] != false })
	if s, ok := m["dbgstat"]; ok && s != "disabled" {
		r.Debug = true
	}
	for k, v := range m {
		switch t := v.(type) {
		case bool, float64:
			r.Claims[k] = v
		case string:
			if len(t) <= maxClaim {
				r.Claims[k] = v
			}
		}
	}
	r.Unproven = []string{Unproven}
	return r, nil
}

// undemanded refuses a guest whose owner demands devices, of which nothing is known here.
func undemanded(r *verify.Result) error {
	if r.InitdataDoc == nil {
		return nil
	}
	list, err := r.InitdataDoc.AdditionalDevices()
	switch {
	case err != nil:
		return verify.Deny(verify.ReasonInitdataMalformed, Component, "initdata", err)
	case len(list) > 0:
		return verify.Mismatch(appraisal.ReasonDeviceMissing, Component, "device "+list[0], "no evidence", "evidence for this session", "additional_devices in initdata")
	}
	return nil
}

func unlike(claim, measured, expected string) error {
	return verify.Mismatch(appraisal.ReasonRemoteAnswer, Component, claim, measured, expected, "this session")
}

// register reads a register. The service leaves one out that is zero, or not: both are
// said to happen.
func register(m map[string]any, name string, size int) ([]byte, error) {
	v, ok := m[name]
	if !ok {
		return make([]byte, size), nil
	}
	s, _ := v.(string)
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != size {
		return nil, unlike(name, fmt.Sprintf("%.160v", v), fmt.Sprintf("the hex of %d bytes", size))
	}
	return b, nil
}

// vector says what the service's words mean. Executables are what policies have
// approved: without one nobody has looked at them.
func (s *Service) vector(c *claims, r *verify.Result) (ear.Vector, []trusteeapi.Finding) {
	const unrecognized, contraindicated = 33, 97
	v := ear.Vector{Configuration: ear.Recognized, Executables: ear.ApprovedBoot, Hardware: ear.Recognized}
	var why []trusteeapi.Finding
	found := func(claim, field, measured, expected string) {
		why = append(why, trusteeapi.Finding{Claim: claim, Field: field, Measured: measured, Expected: expected, Source: s.cfg.URL})
	}
	if missing := s.unmatched(c); missing != "" {
		v.Executables = unrecognized
		found("executables", "policy_ids_matched", missing, "each policy of this trustee, and at least one")
	}
	status, _ := r.Claims["attester_tcb_status"].(string)
	switch status {
	case "UpToDate":
	case "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded":
		v.Hardware = ear.UnsafeHardware
	default:
		v.Hardware = contraindicated
	}
	if v.Hardware != ear.Recognized {
		found("hardware", "attester_tcb_status", fmt.Sprintf("%.60q", status), "UpToDate")
	}
	if r.Debug {
		found("configuration", "debug", "true", "false")
	}
	return policy.Capped(v, r.Debug, false), why
}

// unmatched says what keeps the policies from having matched; "": nothing.
func (s *Service) unmatched(c *claims) string {
	if len(s.cfg.Policies) == 0 {
		return "no policy was asked"
	}
	if len(c.Unmatched) > 0 {
		return fmt.Sprintf("unmatched %.60q", c.Unmatched[0].ID)
	}
	for _, id := range s.cfg.Policies {
		if !slices.ContainsFunc(c.Matched, func(p policyResult) bool { return strings.EqualFold(p.ID, id) }) {
			return "nothing about " + id
		}
	}
	return ""
}

// issue signs the result as this trustee's own.
func (s *Service) issue(ctx context.Context, id string, ns *trusteeapi.Namespace, q *question, c *claims, r *verify.Result, now time.Time) (*appraisal.Result, error) {
	if missing := s.unmatched(c); missing != "" && len(s.cfg.Policies) > 0 && !s.cfg.AllowUnmatched {
		return nil, &denial.Denial{
			Reason: appraisal.ReasonRemoteRefused, Component: Component, Claim: "policy_ids_matched", Measured: missing, Expected: "each policy of this trustee", Source: s.cfg.URL,
		}
	}
	v, findings := s.vector(c, r)
	asked, err := json.Marshal(c.Matched)
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	sum := sha256.Sum256(asked)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	evidence := map[string]any{
		"report_data": r.Claims["report_data"], "init_data": r.Claims["init_data"], "runtime_data_claims": q.claims, "init_data_claims": policy.InitdataClaims(r.InitdataDoc),
	}
	delete(r.Claims, "report_data")
	delete(r.Claims, "init_data")
	delete(q.claims, "additional-evidence")
	evidence[q.tee] = r.Claims
	sub := ear.Submod{
		Status: v.Status(), Vector: v, PolicyID: policies, Evidence: evidence,
		Coffer: &ear.Additions{TEE: q.tee, Debug: r.Debug, Unproven: r.Unproven, Initdata: r.Initdata, Policy: digest, Namespace: ns.Name},
	}
	expires := now.Add(appraisal.Lifetime)
	if e := time.Unix(c.Expires, 0); e.Before(expires) {
		expires = e // no longer than the service says
	}
	own := &ear.Claims{
		Profile: ear.Profile, IssuedAt: now.Unix(), Expires: expires.Unix(), Issuer: issuer, ID: id, Audience: tenant.Audience(ns.Name),
		VerifierID: ear.VerifierID{Developer: "https://www.intel.com", Build: "Intel Trust Authority"}, Submods: map[string]ear.Submod{"cpu0": sub},
	}
	out := &appraisal.Result{ID: id, Submods: own.Submods, Detail: map[string]any{}, Expires: time.Unix(own.Expires, 0)}
	rec := trusteeapi.Appraisal{
		Submod: "cpu0", TEE: q.tee, Policy: policies, Digest: digest, Status: string(sub.Status), Vector: v.Map(), Debug: r.Debug, Unproven: r.Unproven, Findings: findings,
		Checks: []trusteeapi.Check{{What: "token of Intel Trust Authority", Found: fmt.Sprintf("%.128q", c.ID), Source: s.cfg.Keys}},
	}
	for _, x := range r.Checks {
		rec.Checks = append(rec.Checks, trusteeapi.Check(x))
	}
	out.Appraisals = []trusteeapi.Appraisal{rec}
	out.Token, err = s.cfg.Signer.Sign(ctx, ns.Name, own)
	if large := (*ear.TooLargeError)(nil); errors.As(err, &large) {
		return nil, &denial.Denial{
			Reason: appraisal.ReasonTokenTooLarge, Component: Component, Claim: "attestation result", Measured: fmt.Sprintf("%d bytes", large.Size), Expected: fmt.Sprintf("at most %d", ear.MaxToken),
			Source: "what fits into an HTTP header",
		}
	}
	return out, err
}
