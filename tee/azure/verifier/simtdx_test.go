package verifier

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	"github.com/cofferproject/coffer/tee/azure/sim"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel/quote"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	tdxverifier "github.com/cofferproject/coffer/tee/tdx/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

func document(t testing.TB, note string) []byte {
	b, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{"note": note}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A whole az-tdx-vtpm machine, simulated: the release attester's evidence under
// the verifier.
func TestSimulatedTDX(t *testing.T) {
	p, err := intelsim.New(intelsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	items, err := p.Collateral(intelsim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := verify.Config{
		Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{p.Root()}, Collateral: collateral.NewSet(items...), AllowUnproven: []string{UnprovenTDXv2},
	}
	v, err := NewTDX(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	td := &azuretest.TD{Platform: p, Body: p.TD()}
	td.Body.MRTD[0] = 7
	doc := document(t, "mine")
	sum := sha256.Sum256(doc)
	g := azuretest.Boot(t, sim.Options{TD: td}, &sum)
	rd := sha256.Sum256([]byte("session"))
	in := verify.Input{Evidence: g.Evidence(t, rd[:]), ReportData: rd[:], Initdata: doc, Now: time.Now()}
	rs, err := v.Verify(&in)
	if err != nil {
		t.Fatal(err)
	}
	r := rs[0]
	if r.TEE != azure.TDX || !r.Simulated || r.SimulationNote != azuretest.Note || r.Debug || !slices.Equal(r.Unproven, []string{UnprovenTDXv2}) || r.Initdata.Hex != hex.EncodeToString(sum[:]) {
		t.Errorf("%+v", r)
	}
	body := r.Claims["quote"].(map[string]any)["body"].(map[string]any)
	if body["mr_td"] != hex.EncodeToString(td.Body.MRTD[:]) || r.Claims["tcb_status"] != "UpToDate" || r.Claims["report_data"] != hex.EncodeToString(rd[:]) || r.Claims["uefi_event_logs"] != nil {
		t.Errorf("%v", r.Claims)
	}
	if _, err := newTDX(t, verify.Config{Kind: verify.Production, AllowUnproven: cfg.AllowUnproven}).Verify(&in); reason(err) != verify.ReasonSimulated {
		t.Errorf("in production: %v", err)
	}
	td.Body.TDAttributes[0] |= byte(quote.TDDebug)
	g = azuretest.Boot(t, sim.Options{TD: td}, &sum)
	in.Evidence = g.Evidence(t, rd[:])
	if rs, err = v.Verify(&in); err != nil || !rs[0].Debug {
		t.Errorf("a debugged TD: %+v, %v", rs, err)
	}
	td.Body.TDAttributes[3] |= byte(quote.TDMigratable >> 24)
	g = azuretest.Boot(t, sim.Options{TD: td}, &sum)
	in.Evidence = g.Evidence(t, rd[:])
	if _, err = v.Verify(&in); reason(err) != tdxverifier.ReasonMigratable {
		t.Errorf("a TD that may be migrated: %v", err)
	}
}

func newTDX(t testing.TB, cfg verify.Config) *Verifier {
	t.Helper()
	v, err := NewTDX(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}
