package verifier

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	gsgtest "github.com/google/go-sev-guest/verify/testdata"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

// vectorTime lies within the validity of all vectors' certificates.
var vectorTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func read(t testing.TB, sub, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, sub), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unhex(t testing.TB, b []byte) []byte {
	t.Helper()
	out, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// recorded is a verifier for recorded evidence, which came without lists.
func recorded(t testing.TB) *Reports {
	t.Helper()
	v, err := NewReports(verify.Config{Kind: verify.Production, InsecureSkipRevocation: true}, component)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func reason(err error) denial.Reason {
	if d, ok := denial.As(err); ok {
		return d.Reason
	}
	return ""
}

func TestPublishedEvidence(t *testing.T) {
	v, err := New(verify.Config{Kind: verify.Production, InsecureSkipRevocation: true})
	if err != nil {
		t.Fatal(err)
	}
	in := &verify.Input{Evidence: read(t, "as", "evidence.json"), Now: vectorTime, InsecureSkipReportData: true}
	rs, err := v.Verify(in)
	if err != nil {
		t.Fatal(err)
	}
	r := rs[0]
	for name, want := range map[string]any{
		"policy_abi_major": uint8(0), "policy_abi_minor": uint8(0), "policy_smt_allowed": true, "policy_migrate_ma": false,
		"policy_debug_allowed": false, "policy_single_socket": false,
		"reported_tcb_bootloader": uint8(10), "reported_tcb_tee": uint8(0), "reported_tcb_snp": uint8(23), "reported_tcb_microcode": uint8(25),
		"platform_tsme_enabled": false, "platform_smt_enabled": true, "platform_ecc_enabled": true, "platform_alias_check_complete": true,
		"measurement": "6a6519d757e68c2e939c9dbbbc1828498e8de35d2766dd05f1a2cca5059d0cf4ae62a36d75c837974dd50b315506e73e",
		"init_data":   strings.Repeat("00", 32),
		"chip_id":     "371c55d6d15cb50f16dc31d39a24e300caaabff4431e841111429b73ec45ad67ea6e687ffae7bf84b54a5d0e6d79b3ef6ff0bd8b4cff94c2163af5c5de8718e8",
		"signing_key": "vcek", "vmpl": uint32(0),
	} {
		if got := r.Claims[name]; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if r.TEE != "snp" || r.Class != "cpu" || r.Debug || r.Simulated || len(r.Unproven) > 0 || len(r.Checks) < 5 {
		t.Errorf("got %+v", r)
	}
	// Its report data is a runtime-data hash's 48 bytes or more.
	want := unhex(t, []byte(r.Claims["report_data"].(string)))
	in.InsecureSkipReportData, in.ReportData = false, want
	if _, err := v.Verify(in); err != nil {
		t.Error(err)
	}
	in.ReportData = bytes.Repeat([]byte{7}, 48)
	if _, err := v.Verify(in); reason(err) != verify.ReasonReportData {
		t.Errorf("other report data: %v", err)
	}
	// Without a revocation list production says no.
	strict, err := New(verify.Config{Kind: verify.Production})
	if err != nil {
		t.Fatal(err)
	}
	_, err = strict.Verify(in)
	if d, _ := denial.As(err); d == nil || d.Reason != verify.ReasonCollateralMissing || d.Source != "https://kdsintf.amd.com/vcek/v1/Genoa/crl" {
		t.Errorf("no revocation list: %v", err)
	}
}

func TestPublishedReports(t *testing.T) {
	for _, c := range []struct {
		name      string
		raw, vcek []byte
		now       time.Time
		debug     bool
		reason    denial.Reason
	}{
		{"test-report", read(t, "snp", "test-report.bin"), read(t, "snp", "test-vcek.der"), vectorTime, false, ""},
		{"report_milan", unhex(t, read(t, "snp", "report_milan.hex")), read(t, "snp", "vcek_milan.der"), vectorTime, false, ""},
		{"go-sev-guest, debug policy", gsgtest.AttestationBytes, gsgtest.VcekBytes, vectorTime, true, ""},
		{"the broken VCEK", read(t, "snp", "test-report.bin"), read(t, "snp", "test-vcek-invalid-legacy.der"), vectorTime, false, ReasonChainUntrusted},
		{"another chip's VCEK", read(t, "snp", "test-report.bin"), read(t, "snp", "vcek_milan.der"), vectorTime, false, ReasonChipID},
		{"a Turin VCEK", read(t, "snp", "test-report.bin"), read(t, "snp", "vcek_turin.der"), vectorTime, false, verify.ReasonUnproven},
		{"expired", read(t, "snp", "test-report.bin"), read(t, "snp", "test-vcek.der"), time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC), false, ReasonCertificateExpired},
		{"not yet valid", read(t, "snp", "test-report.bin"), read(t, "snp", "test-vcek.der"), time.Date(2022, 1, 1, 0, 0, 0, 0, time.UTC), false, ReasonCertificateExpired},
		{"no VCEK", read(t, "snp", "test-report.bin"), nil, vectorTime, false, verify.ReasonCollateralMissing},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, res := recorded(t), new(verify.Result)
			var certs []snp.Cert
			if c.vcek != nil {
				certs = []snp.Cert{{Type: snp.CertVCEK, Data: c.vcek}}
			}
			for range 2 { // the second time from the cache
				_, err := v.Verify(c.raw, certs, c.now, res)
				if reason(err) != c.reason || (err == nil) != (c.reason == "") {
					t.Fatalf("got %v, want %q", err, c.reason)
				}
			}
			if res.Debug != c.debug {
				t.Errorf("debug %v", res.Debug)
			}
		})
	}
}

// The VCEK may come from collateral, under its published name.
func TestVCEKFromCollateral(t *testing.T) {
	raw := read(t, "snp", "test-report.bin")
	const origin = "https://kdsintf.amd.com/vcek/v1/Milan/c38427a30d4c7af9d96f7a15b97269825a64cb76a2352ffd5d18115d89ad473f8e8c0bcd9a5d9286612bad4aadfb4426205a3b9e4fea82301135a170e477524e?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115"
	v, err := NewReports(verify.Config{Kind: verify.Production, InsecureSkipRevocation: true, Collateral: collateral.NewSet(
		&collateral.Item{Origin: origin, Body: read(t, "snp", "test-vcek.der"), Fetched: vectorTime})}, component)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(raw, nil, vectorTime, new(verify.Result)); err != nil {
		t.Error(err)
	}
}

// Turin's certificates are at hand, a report is not.
func TestTurinChain(t *testing.T) {
	l, err := parseLeaf(read(t, "snp", "vcek_turin.der"), false)
	if err != nil {
		t.Fatal(err)
	}
	if l.product != Turin || !l.tcb.WithFMC || hex.EncodeToString(l.hwid) != "1e550a8ee5cf9f4d" || l.tcb.Microcode != 9 {
		t.Errorf("got %+v", l)
	}
	if _, err := recorded(t).build(l, nil); err != nil {
		t.Error(err)
	}
	b := read(t, "snp", "cert_chain_turin")
	as, err := vendorAnchors()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []*x509.Certificate{as[2].ask, as[2].ark} {
		block, rest := pem.Decode(b)
		if block == nil || !bytes.Equal(block.Bytes, want.Raw) {
			t.Errorf("%s differs from the published chain", want.Subject.CommonName)
		}
		b = rest
	}
	if got := VCEKOrigin(Turin, [64]byte{0x1e, 0x55}, l.tcb); got != "https://kdsintf.amd.com/vcek/v1/Turin/1e55000000000000?fmcSPL=00&blSPL=00&teeSPL=00&snpSPL=00&ucodeSPL=09" {
		t.Error(got)
	}
}

// The embedded certificates are those that their files say, and for Milan those that
// an independent module ships (Turin: TestTurinChain; Genoa: TestPublishedEvidence).
func TestEmbeddedRoots(t *testing.T) {
	as, err := vendorAnchors()
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^SHA-256: ([0-9a-f]{64})$`)
	shipped := map[string]bool{}
	for _, b := range [][]byte{gsgtest.MilanVcekBytes, gsgtest.MilanVlekBytes} { //nolint:staticcheck // outside copies of the roots
		for {
			block, rest := pem.Decode(b)
			if block == nil {
				break
			}
			s := sha256.Sum256(block.Bytes)
			shipped[hex.EncodeToString(s[:])], b = true, rest
		}
	}
	for _, a := range as {
		b, err := rootFiles.ReadFile("roots/" + strings.ToLower(a.product) + ".pem")
		if err != nil {
			t.Fatal(err)
		}
		said := line.FindAllSubmatch(b, -1)
		for i, c := range []*x509.Certificate{a.ark, a.ask, a.asvk} {
			s := sha256.Sum256(c.Raw)
			fp := hex.EncodeToString(s[:])
			if string(said[i][1]) != fp || a.product == Milan && !shipped[fp] {
				t.Errorf("%s: fingerprint %s", c.Subject.CommonName, fp)
			}
			if err := checkCA(c, a.ark); err != nil {
				t.Errorf("%s: %v", c.Subject.CommonName, err)
			}
		}
	}
}

// Reports inside the evidence of Azure's machines: Milan and Genoa, version 3.
func TestReportsOfAzure(t *testing.T) {
	var v2 struct {
		HCL  string `json:"hcl_report"`
		VCEK string `json:"vcek"`
	}
	if err := json.Unmarshal(read(t, "azure", "evidence-v2.json"), &v2); err != nil {
		t.Fatal(err)
	}
	hcl, err := base64.URLEncoding.DecodeString(v2.HCL)
	if err != nil {
		t.Fatal(err)
	}
	milan, err := base64.URLEncoding.DecodeString(v2.VCEK)
	if err != nil {
		t.Fatal(err)
	}
	var v0 struct {
		Report []uint16 `json:"report"`
		VCEK   string   `json:"vcek"`
	}
	if err := json.Unmarshal(read(t, "azure", "evidence-genoa.json"), &v0); err != nil {
		t.Fatal(err)
	}
	genoaHCL := make([]byte, len(v0.Report))
	for i, x := range v0.Report {
		genoaHCL[i] = byte(x)
	}
	genoa, _ := pem.Decode([]byte(v0.VCEK))
	for name, c := range map[string]struct{ raw, vcek []byte }{
		Milan: {hcl[32 : 32+snp.ReportSize], milan}, Genoa: {genoaHCL[32 : 32+snp.ReportSize], genoa.Bytes},
	} {
		r, err := recorded(t).Verify(c.raw, []snp.Cert{{Type: snp.CertVCEK, Data: c.vcek}}, vectorTime, new(verify.Result))
		if err != nil || r.Version != 3 || productOf(*r.CPU) != name {
			t.Errorf("%s: %v", name, err)
		}
	}
}
