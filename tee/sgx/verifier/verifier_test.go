package verifier

import (
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/quote"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/sgx"
	"github.com/cofferproject/coffer/tee/sgx/attester"
	"github.com/cofferproject/coffer/tee/sgx/sim"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

var (
	day        = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	reportData = []byte("0123456789abcdef0123456789abcdef0123456789abcdef")
	doc        = []byte("version = \"0.1.0\"\nalgorithm = \"sha512\"\n\n[data]\n\"x\" = \"y\"\n")
)

func vector(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "sgx"), "occlum_quote.dat"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEveryVector: a new vector of SGX asks for its test. Quote: here and in
// tee/intel; TCB information and identity: tee/intel TestVectorCollateral.
func TestEveryVector(t *testing.T) {
	files, err := os.ReadDir(vectors.Dir(t, "sgx"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	if want := []string{"enclaveIdentity.json", "occlum_quote.dat", "tcbInfo.json"}; !reflect.DeepEqual(names, want) {
		t.Errorf("vectors %q, tested %q", names, want)
	}
}

// The claims that the other implementation's test expects of its quote.
func TestPublishedClaims(t *testing.T) {
	q, err := quote.Parse(vector(t))
	if err != nil {
		t.Fatal(err)
	}
	c := Claims(q)
	certs, err := intel.ParseChain(q.CertData)
	if err != nil {
		t.Fatal(err)
	}
	pck, err := intel.ParsePCK(certs[0])
	if err != nil {
		t.Fatal(err)
	}
	c["platform_instance_id"] = pck.PlatformInstanceID()
	zeros := func(n int) string { return strings.Repeat("00", n) }
	test := "74657374" + zeros(60)
	want := map[string]any{
		"header": map[string]any{
			"version": "0300", "att_key_type": "0200", "att_key_data_0": "00000000", "qe_svn": "0800", "pce_svn": "0d00",
			"vendor_id": "939a7233f79c4ca9940a0db3957f0607", "user_data": "dccde9b31ce8860548173bb4a2a57a1600000000",
		},
		"body": map[string]any{
			"cpu_svn": "06060c0cffff00000000000000000000", "misc_select": "01000000", "reserved1": zeros(12), "isv_ext_prod_id": zeros(16),
			"attributes.flags": "0700000000000000", "attributes.xfrm": "e700000000000000",
			"mr_enclave": "8f173e4613ff05c52aaf04162d234edae8c9977eae47eb2299ae16a553011c68", "reserved2": zeros(32),
			"mr_signer": "83d719e77deaca1470f6baf62a4d774303c899db69020f9c70ee1dfc08c7ce9e", "reserved3": zeros(32), "config_id": zeros(64),
			"isv_prod_id": "0000", "isv_svn": "0000", "config_svn": "0000", "reserved4": zeros(42), "isv_family_id": zeros(16), "report_data": test,
		},
		"report_data": test, "init_data": zeros(64), "platform_instance_id": "7a3a6941065cd5060bd93d3db2cfc0c8",
	}
	if !reflect.DeepEqual(c, want) {
		b, err := json.Marshal(c)
		t.Errorf("claims differ: %s, %v", b, err)
	}
}

func TestVectorNeedsCollateral(t *testing.T) {
	v, err := New(verify.Config{Kind: verify.Production})
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&sgx.Evidence{Quote: vector(t)}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(&verify.Input{Evidence: b, InsecureSkipReportData: true, Now: day})
	if !denied(err, verify.ReasonCollateralMissing) {
		t.Errorf("got %v", err)
	}
}

func denied(err error, r denial.Reason) bool {
	d, ok := denial.As(err)
	return ok && d.Reason == r
}

// From the simulated library OS through the attester to the verdict.
func TestSimulated(t *testing.T) {
	p, err := intelsim.New(intelsim.Options{Now: day})
	if err != nil {
		t.Fatal(err)
	}
	items, err := p.Collateral(intelsim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{p.Root()}, Collateral: collateral.NewSet(items...)}
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := sim.Measured{MREnclave: [32]byte{1}, ConfigID: sha512.Sum512(doc), ProductID: 0x0102}
	judge := func(m sim.Measured, note string) (*verify.Result, error) {
		a := attester.New(sim.New(p, m), note)
		ev, err := a.Evidence(t.Context(), reportData, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := a.InitdataRegister(t.Context()); err != nil || [64]byte(r) != m.ConfigID {
			t.Errorf("register %x, %v", r, err)
		}
		r, err := v.Verify(&verify.Input{Evidence: ev, ReportData: reportData, Initdata: doc, Now: day})
		if err != nil {
			return nil, err
		}
		return r[0], nil
	}
	r, err := judge(m, "everything")
	if err != nil {
		t.Fatal(err)
	}
	if !r.Simulated || r.Debug || r.Initdata == nil || r.InitdataDoc == nil || r.Claims["tcb_status"] != "UpToDate" || r.Claims["body"].(map[string]any)["isv_prod_id"] != "0201" {
		t.Errorf("%+v", r)
	}
	m.Debug = true
	if r, err = judge(m, "everything"); err != nil || !r.Debug {
		t.Errorf("a debug enclave: %v", err)
	}
	if _, err := judge(m, ""); !denied(err, verify.ReasonNotSimulated) {
		t.Errorf("without a note: %v", err)
	}
	e := p.Enclave()
	e.Flags[0] |= byte(quote.FlagProvision)
	raw, err := p.QuoteEnclave(&e, 3)
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&sgx.Evidence{Quote: raw, Simulation: "x"}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	in := &verify.Input{Evidence: b, InsecureSkipReportData: true, Now: day}
	if _, err := v.Verify(in); !denied(err, ReasonAttributes) {
		t.Errorf("an enclave with the provisioning key: %v", err)
	}
	if raw, err = p.QuoteEnclave(&e, 4); err != nil {
		t.Fatal(err)
	}
	if in.Evidence, err = (&sgx.Evidence{Quote: raw, Simulation: "x"}).Encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(in); !denied(err, verify.ReasonUnproven) {
		t.Errorf("quote v4: %v", err)
	}
}
