package verifier

import (
	"crypto/sha512"
	"crypto/x509"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/tdx"
	"github.com/cofferproject/coffer/tee/verify"
)

var (
	day        = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	reportData = []byte("0123456789abcdef0123456789abcdef0123456789abcdef")
)

const note = "everything"

func input(t testing.TB, raw, log []byte, simulation string) *verify.Input {
	t.Helper()
	b, err := (&tdx.Evidence{Quote: raw, EventLog: log, Simulation: simulation}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return &verify.Input{Evidence: b, ReportData: reportData, InsecureSkipInitdata: true, Now: day}
}

func machine(t testing.TB) (*sim.Platform, verify.Config) {
	t.Helper()
	p, err := sim.New(sim.Options{Now: day})
	if err != nil {
		t.Fatal(err)
	}
	items, err := p.Collateral(sim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p, verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{p.Root()}, Collateral: collateral.NewSet(items...)}
}

func mustNew(t testing.TB, c verify.Config) verify.Verifier {
	t.Helper()
	v, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func sign(t testing.TB, p *sim.Platform, change func(*quote.TD)) []byte {
	t.Helper()
	td := p.TD()
	copy(td.ReportData[:], reportData)
	if change != nil {
		change(&td)
	}
	raw, err := p.QuoteTD(&td, 4)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestSimulated(t *testing.T) {
	p, cfg := machine(t)
	doc := []byte("version = \"0.1.0\"\nalgorithm = \"sha384\"\n\n[data]\n\"x\" = \"y\"\n")
	in := input(t, sign(t, p, func(td *quote.TD) { td.MRConfigID = sha512.Sum384(doc) }), nil, note)
	in.Initdata, in.InsecureSkipInitdata = doc, false
	r, err := mustNew(t, cfg).Verify(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(r) != 1 || !r[0].Simulated || r[0].SimulationNote != note || r[0].Initdata == nil || r[0].Debug || r[0].Claims["tcb_status"] != "UpToDate" || r[0].Claims["uefi_event_logs"] != nil {
		t.Errorf("%+v", r[0])
	}
	in = input(t, sign(t, p, func(td *quote.TD) { td.TDAttributes[0] = 1 }), nil, note)
	if r, err = mustNew(t, cfg).Verify(in); err != nil || !r[0].Debug {
		t.Errorf("a TD under debug: %v", err)
	}
	in = input(t, sign(t, p, func(td *quote.TD) { td.TDAttributes[0] = 0x20 }), nil, note) // PERF_PROF, of the same byte
	if r, err = mustNew(t, cfg).Verify(in); err != nil || !r[0].Debug || r[0].Claims["td_attributes"].(map[string]any)["debug"] != true {
		t.Errorf("a TD that may be profiled: %v", err)
	}
	if _, err := mustNew(t, cfg).Verify(input(t, sign(t, p, func(td *quote.TD) { td.TDAttributes[3] |= 0x20 }), nil, note)); !denied(err, ReasonMigratable) {
		t.Errorf("a TD that may be migrated: %v", err)
	}
	if _, err := mustNew(t, verify.Config{Kind: verify.Production}).Verify(in); !denied(err, verify.ReasonSimulated) {
		t.Errorf("in production: %v", err)
	}
	if _, err := mustNew(t, cfg).Verify(input(t, sign(t, p, nil), nil, "")); !denied(err, verify.ReasonNotSimulated) {
		t.Errorf("without a note: %v", err)
	}
	if _, err := mustNew(t, cfg).Verify(input(t, vector(t, "tdx_quote_4.dat"), nil, note)); !denied(err, verify.ReasonNotSimulated) {
		t.Errorf("a quote under Intel's root: %v", err)
	}
}

// A digest of a bank that no register took is nobody's word, whatever the log's
// header names.
func TestOtherBanksAreNotShown(t *testing.T) {
	p, cfg := machine(t)
	e := eventlog.NewEvent(1, refvalue.EFIAction, []byte("what booted"), eventlog.SHA384, eventlog.SHA256)
	e.Digests[1].Sum = make([]byte, 32) // that of what should have booted
	raw := e.Append(eventlog.SpecHeader(eventlog.SHA384, eventlog.SHA256))
	log, err := eventlog.ParseCC(raw)
	if err != nil {
		t.Fatal(err)
	}
	registers, err := log.ReplayRTMRs(eventlog.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	r, err := mustNew(t, cfg).Verify(input(t, sign(t, p, func(td *quote.TD) { copy(td.RTMR[0][:], registers[0]) }), raw, note))
	if err != nil {
		t.Fatal(err)
	}
	shown := r[0].Claims["uefi_event_logs"].([]eventlog.Description)
	if len(shown) != 1 || len(shown[0].Digests) != 1 || shown[0].Digests[0].Alg != "SHA-384" || !shown[0].DigestMatchesEvent {
		t.Errorf("%+v", shown)
	}
}
