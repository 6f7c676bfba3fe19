package verifier

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

// day lies within the validity of the vectors' certificates.
var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func vector(t testing.TB, name string) []byte {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "azure"), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// recorded is for evidence that came without revocation lists.
var recorded = verify.Config{Kind: verify.Production, InsecureSkipRevocation: true}

func newSNP(t testing.TB, cfg verify.Config, o Options) *Verifier {
	t.Helper()
	v, err := NewSNP(cfg, o)
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

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Evidence of two machines, judged as in the sessions that it was made for.
func TestPublishedSNP(t *testing.T) {
	for _, c := range []struct {
		file, reportData, pcr00, initData, smt, microcode string
		unbound                                           bool
	}{
		{"evidence-v2.json", "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef",
			"84275b2f4312cd4fc6cbe6b152ad3c3683e513d9f1e23c34fca160c8cca7a6a7", strings.Repeat("0", 64), "true", "219", false},
		{"evidence-genoa.json", "0218488bae25d2509232bf676f1a66a30d7372add909109b36016ef136f2938ca05475f8b46094de6b64270ea35d950f",
			"afd689d0", "16f09f1e315b0b9bc69e654df58927aad7eaffeebd92f458f1b079b44e97207f", "false", "84", true},
	} {
		t.Run(c.file, func(t *testing.T) {
			v := newSNP(t, recorded, Options{InsecureAcceptUnboundReport: c.unbound})
			in := verify.Input{Evidence: vector(t, c.file), ReportData: unhex(t, c.reportData), InsecureSkipInitdata: true, Now: day}
			rs, err := v.Verify(&in)
			if err != nil {
				t.Fatal(err)
			}
			r := rs[0]
			e, err := azure.Parse(azure.SNP, in.Evidence)
			if err != nil {
				t.Fatal(err)
			}
			raw := e.HCLReport[32:]
			pcrs := r.Claims["tpm"].(map[string]any)
			if r.TEE != "az-snp-vtpm" || r.Class != "cpu" || r.Simulated || r.Debug || len(r.Unproven) > 0 || len(pcrs) != 24 || !strings.HasPrefix(pcrs["pcr00"].(string), c.pcr00) {
				t.Errorf("%+v", r)
			}
			for name, want := range map[string]any{
				"report_data": c.reportData, "init_data": c.initData, "policy_debug_allowed": "false", "policy_abi_major": "0", "policy_smt_allowed": "true",
				"platform_smt_enabled": c.smt, "reported_tcb_microcode": c.microcode, "measurement": base64.StdEncoding.EncodeToString(raw[0x90:0xc0]),
			} {
				if r.Claims[name] != want {
					t.Errorf("%s: %v, want %v", name, r.Claims[name], want)
				}
			}
			if (r.Claims["hcl_report_unbound"] == true) != c.unbound {
				t.Errorf("hcl_report_unbound: %v", r.Claims["hcl_report_unbound"])
			}

			other := in
			other.ReportData = append([]byte{1}, in.ReportData[1:]...)
			if _, err := v.Verify(&other); reason(err) != verify.ReasonReportData {
				t.Errorf("other session: %v", err)
			}
			other.ReportData = append(in.ReportData[:48:48], 0) // no padding
			if _, err := v.Verify(&other); reason(err) != verify.ReasonReportData {
				t.Errorf("padded report data: %v", err)
			}
			other = in
			other.Initdata = []byte("version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n")
			want := verify.ReasonInitdataMismatch
			if c.initData == strings.Repeat("0", 64) {
				want = verify.ReasonInitdataUnexpected
			}
			if _, err := v.Verify(&other); reason(err) != want {
				t.Errorf("a document: %v", err)
			}
			other = in
			other.InsecureSkipInitdata = false
			_, err = v.Verify(&other)
			if zero := c.initData == strings.Repeat("0", 64); zero && err != nil || !zero && reason(err) != verify.ReasonInitdataMissing {
				t.Errorf("no document: %v", err)
			}
			strict := newSNP(t, recorded, Options{})
			if _, err = strict.Verify(&in); c.unbound && reason(err) != ReasonReportUnbound || !c.unbound && err != nil {
				t.Errorf("without choice: %v", err)
			}
			in.InsecureSkipReportData = true
			if _, err = strict.Verify(&in); err != nil {
				t.Errorf("recorded: %v", err)
			}
			if _, err = newSNP(t, verify.Config{Kind: verify.Production}, Options{}).Verify(&in); reason(err) != verify.ReasonCollateralMissing {
				t.Errorf("no revocation list: %v", err)
			}
			if _, err = newSNP(t, verify.Config{Kind: verify.InsecureSimulated}, Options{}).Verify(&in); reason(err) != verify.ReasonNotSimulated {
				t.Errorf("in a simulated namespace: %v", err)
			}
		})
	}
}

// An attacker who writes another version number gives up nothing and gains nothing.
func TestDowngrade(t *testing.T) {
	e, err := azure.Parse(azure.SNP, vector(t, "evidence-v2.json"))
	if err != nil {
		t.Fatal(err)
	}
	e.Version = 1
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	in := verify.Input{Evidence: b, ReportData: unhex(t, "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef"), Now: day}
	if _, err := newSNP(t, recorded, Options{}).Verify(&in); reason(err) != ReasonReportUnbound {
		t.Errorf("version 1: %v", err)
	}
	// The Genoa machine's evidence as version 2: nothing bound its report.
	if e, err = azure.Parse(azure.SNP, vector(t, "evidence-genoa.json")); err != nil {
		t.Fatal(err)
	}
	e.Version = 2
	if b, err = e.Encode(); err != nil {
		t.Fatal(err)
	}
	in = verify.Input{Evidence: b, InsecureSkipReportData: true, InsecureSkipInitdata: true, Now: day}
	if _, err := newSNP(t, recorded, Options{}).Verify(&in); reason(err) != ReasonUserData {
		t.Errorf("version 0 as 2: %v", err)
	}
}
