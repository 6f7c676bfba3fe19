package attester

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/sgx"
)

// Gramine's folder, played by files: the quote was made ahead for the data that
// is asked for.
func TestGramine(t *testing.T) {
	p, err := sim.New(sim.Options{Now: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	e := p.Enclave()
	copy(e.ReportData[:], "data")
	e.ConfigID[5] = 9
	raw, err := p.QuoteEnclave(&e, 3)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openGramine(dir); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("no files: %v", err)
	}
	put("attestation_type", []byte("epid"))
	if _, err := openGramine(dir); err == nil || errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("EPID: %v", err)
	}
	put("attestation_type", []byte("dcap"))
	put("user_report_data", nil)
	put("target_info", nil)
	put("my_target_info", bytes.Repeat([]byte{7}, 512))
	put("quote", raw)
	put("report", append(e.Bytes(), make([]byte, 48)...))
	g, err := openGramine(dir)
	if err != nil {
		t.Fatal(err)
	}
	a := New(g, "files")
	b, err := a.Evidence(t.Context(), []byte("data"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if ev, err := sgx.Parse(b); err != nil || !bytes.Equal(ev.Quote, raw) || ev.Simulation != "files" {
		t.Errorf("%s, %v", b, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "user_report_data")); err != nil || !bytes.Equal(got, append([]byte("data"), make([]byte, 60)...)) {
		t.Errorf("report data %x, %v", got, err)
	}
	if _, err := a.Evidence(t.Context(), []byte("other"), nil); err == nil {
		t.Error("a quote over other data: accepted")
	}
	if r, err := a.InitdataRegister(t.Context()); err != nil || !bytes.Equal(r, e.ConfigID[:]) {
		t.Errorf("CONFIGID %x, %v", r, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "target_info")); err != nil || len(got) != 512 || got[0] != 7 {
		t.Errorf("target %x, %v", got, err)
	}
	put("report", make([]byte, quote.EnclaveSize-1))
	if _, err := a.InitdataRegister(t.Context()); err == nil {
		t.Error("a short report: accepted")
	}
	put("quote", make([]byte, quote.MaxSize+1))
	if _, err := a.Evidence(t.Context(), nil, nil); err == nil {
		t.Error("a huge quote: accepted")
	}
}

func TestOcclum(t *testing.T) {
	for name, v := range map[string][2]uintptr{
		"CREATE_REPORT": {occlumCreateReport, 0xc0187304}, "GET_DCAP_QUOTE_SIZE": {occlumQuoteSize, 0x80047307}, "GEN_DCAP_QUOTE": {occlumQuote, 0xc0187308},
	} {
		if v[0] != v[1] {
			t.Errorf("%s: %#x, want %#x", name, v[0], v[1])
		}
	}
	if _, err := openOcclum("/no/device"); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("not in Occlum: %v", err)
	}
	t.Setenv("OCCLUM", "yes")
	if _, err := openOcclum("/no/device"); err == nil || errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("no device: %v", err)
	}
	o, err := openOcclum("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Quote(t.Context(), make([]byte, 64)); err == nil {
		t.Error("a quote of /dev/null")
	}
	if _, err := o.Report(t.Context()); err == nil {
		t.Error("a report of /dev/null")
	}
}
