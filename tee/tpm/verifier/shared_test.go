package verifier_test

import (
	"crypto/x509"
	"encoding/json"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/tee/tpm/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

// The TPM under the contract of all TEEs: one guest, its evidence fresh,
// recorded, and in a namespace of the other kind.
func TestSharedContract(t *testing.T) {
	w := newWorld(t)
	key := make([]byte, 32)
	tee, err := verifier.NewTEE(
		verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{w.ca.Root}},
		verifier.Trust{CredentialKey: key, References: []*refvalue.Bundle{tpmtest.References()}},
	)
	if err != nil {
		t.Fatal(err)
	}
	g := w.boot(0, document(t, "mine"), nil)
	s := w.session(g)
	if s.ch, err = tee.Challenge(s.req, s.nonce); err != nil {
		t.Fatal(err)
	}
	extra, err := json.Marshal(kbs.RequestExtra{TPM: s.req})
	if err != nil {
		t.Fatal(err)
	}
	in := verify.Input{Evidence: w.evidence(g, s), RequestExtra: extra, Nonce: s.nonce, ReportData: s.hash(t), Initdata: g.doc, Now: time.Now()}
	rs, err := tee.Verify(&in)
	if err != nil {
		t.Fatal(err)
	}
	r := rs[0]
	if len(rs) != 1 || r.TEE != tpm.WireName || r.Class != verify.ClassCPU || !r.Simulated || r.SimulationNote == "" || r.Initdata == nil || r.InitdataDoc == nil ||
		r.Detail["events"] == nil || r.Claims["events"] != nil || r.Claims["pcr11"] == nil || r.Claims["init_data"] == "" || len(r.Checks) != 10 {
		t.Errorf("result %+v", r)
	}

	stale := in
	stale.Nonce, stale.ReportData, stale.Initdata = "", nil, nil
	if _, err := tee.Verify(&stale); err == nil {
		t.Error("judged without a runtime data hash")
	} else if _, ok := denial.As(err); ok {
		t.Errorf("a fault of the caller is a denial: %v", err)
	}
	stale.InsecureSkipReportData = true
	_, err = tee.Verify(&stale)
	wantDenial(t, err, verify.ReasonInitdataMissing)
	stale.InsecureSkipInitdata = true
	if rs, err = tee.Verify(&stale); err != nil || rs[0].Claims["report_data"] != r.Claims["report_data"] || rs[0].Initdata != nil {
		t.Errorf("recorded evidence: %+v, %v", rs, err)
	}

	prod, err := verifier.NewTEE(verify.Config{Kind: verify.Production}, verifier.Trust{CredentialKey: key, EKRoots: []*x509.Certificate{w.ca.Root}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = prod.Verify(&in)
	wantDenial(t, err, verify.ReasonSimulated)
	e, err := tpm.Parse(in.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	e.Simulation = ""
	if in.Evidence, err = json.Marshal(e); err != nil {
		t.Fatal(err)
	}
	_, err = tee.Verify(&in)
	wantDenial(t, err, verify.ReasonNotSimulated)
	if _, err := verifier.NewTEE(verify.Config{}, verifier.Trust{CredentialKey: key}); err == nil {
		t.Error("no choice between production and simulation")
	}
}
