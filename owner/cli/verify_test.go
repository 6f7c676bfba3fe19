package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/owner/evidence"
	"github.com/cofferproject/coffer/test/vectors"
)

// coffer runs the command and gives exit code, standard output and error.
func coffer(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	root := NewRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	cmd, err := root.ExecuteC()
	PrintError(&errs, cmd, err)
	return ExitCode(err), out.String(), errs.String()
}

func evidenceFile(t *testing.T, elem ...string) string {
	t.Helper()
	return filepath.Join(append([]string{vectors.Dir(t, elem[0])}, elem[1:]...)...)
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

const (
	snpMeasurement = "6a6519d757e68c2e939c9dbbbc1828498e8de35d2766dd05f1a2cca5059d0cf4ae62a36d75c837974dd50b315506e73e"
	snpReferences  = `{"snp_launch_measurement":["` + snpMeasurement + `"],"snp_bootloader":[10],"snp_microcode":[25],"snp_snp_svn":[23],"snp_tee_svn":[0]}`
	snpTime        = "2025-06-01T00:00:00Z"
)

func TestVerifyAffirms(t *testing.T) {
	refs := write(t, "refs.json", snpReferences)
	args := []string{"verify", evidenceFile(t, "as", "evidence.json"), "--time", snpTime, "--insecure-skip-revocation", "--reference-values", refs}
	code, out, errs := coffer(t, args...)
	if code != ExitOK {
		t.Fatalf("exit %d\n%s\n%s", code, out, errs)
	}
	for _, want := range []string{"affirming", "report signature", "snp", snpMeasurement, "executables=3", "hardware=2"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing from\n%s", want, out)
		}
	}
	for _, want := range []string{"NOT CHECKED: FRESHNESS", "NOT CHECKED: revocation", "NOT CHECKED: initdata"} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q is missing from\n%s", want, errs)
		}
	}
	code, out, errs = coffer(t, append(args, "--output", "json")...)
	var r evidence.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != ExitOK || errs != "" {
		t.Fatalf("exit %d, %v\n%s\n%s", code, err, out, errs)
	}
	if r.TEE != "snp" || r.Status != "affirming" || len(r.Devices) != 1 || len(r.Devices[0].Checks) < 4 || len(r.NotChecked) < 3 {
		t.Errorf("%+v", r)
	}
}

func TestVerifyNamesTheFieldThatIsNotAffirmed(t *testing.T) {
	refs := write(t, "refs.json", strings.Replace(snpReferences, `"snp_snp_svn":[23]`, `"snp_snp_svn":[24]`, 1))
	code, out, errs := coffer(t, "verify", evidenceFile(t, "as", "evidence.json"), "--time", snpTime, "--insecure-skip-revocation", "--reference-values", refs)
	if code != ExitNotAffirmed {
		t.Fatalf("exit %d\n%s\n%s", code, out, errs)
	}
	for _, want := range []string{"contraindicated", "hardware=97", "snp.reported_tcb_snp", "23", "[24]", "reference value snp_snp_svn"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing from\n%s", want, out)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	snp := evidenceFile(t, "as", "evidence.json")
	raw, err := os.ReadFile(snp)
	if err != nil {
		t.Fatal(err)
	}
	bent := write(t, "bent.json", strings.Replace(string(raw), `"r":[248,`, `"r":[249,`, 1))
	quote := evidenceFile(t, "tdx", "tdx_quote_4.dat")
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no revocation list":      {[]string{snp, "--time", snpTime}, ExitDenied, "collateral-missing"},
		"another report data":     {[]string{snp, "--time", snpTime, "--insecure-skip-revocation", "--report-data", strings.Repeat("07", 48)}, ExitDenied, "report-data-mismatch"},
		"bent signature":          {[]string{bent, "--time", snpTime, "--insecure-skip-revocation"}, ExitDenied, "REFUSED"},
		"a quote, no collateral":  {[]string{quote, "--time", snpTime}, ExitDenied, "collateral-missing"},
		"a TEE that is not there": {[]string{snp, "--tee", "no-such"}, ExitDenied, "tee-unsupported"},
		"a sample":                {[]string{write(t, "sample.json", `{"svn":"1","report_data":""}`), "--tee", "sample"}, ExitDenied, "tee-unsupported"},
		"no such file":            {[]string{"/nonexistent"}, ExitInput, "nonexistent"},
		"no evidence":             {[]string{write(t, "x.json", `{"a":1}`)}, ExitInput, "--tee"},
		"no JSON":                 {[]string{write(t, "x", "hello")}, ExitInput, "--tee"},
		"bad time":                {[]string{snp, "--time", "yesterday"}, ExitInput, "--time"},
		"bad policy":              {[]string{snp, "--time", snpTime, "--insecure-skip-revocation", "--policy", write(t, "p.rego", "package other")}, ExitDenied, "policy-malformed"},
		"bad flag":                {[]string{snp, "--no-such-flag"}, ExitUsage, "no-such-flag"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := coffer(t, append([]string{"verify"}, c.args...)...)
			if code != c.code || !strings.Contains(out+errs, c.want) {
				t.Errorf("exit %d, want %d and %q\n%s\n%s", code, c.code, c.want, out, errs)
			}
			// For programs: one document says the same.
			if c.code != ExitDenied {
				return
			}
			code, out, _ = coffer(t, append([]string{"verify", "-o", "json"}, c.args...)...)
			var r evidence.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil || code != ExitDenied || r.Denial == nil || r.Denial.Claim == "" {
				t.Errorf("exit %d, %v\n%s", code, err, out)
			}
		})
	}
}

// A policy of one's own decides, and sees the published claims.
func TestVerifyWithPolicy(t *testing.T) {
	p := write(t, "p.rego", "package policy\nimport rego.v1\ntrust_claims := {\"executables\": 3} if input.snp.measurement == \""+snpMeasurement+"\"\n")
	code, out, errs := coffer(t, "verify", evidenceFile(t, "as", "evidence.json"), "--time", snpTime, "--insecure-skip-revocation", "--policy", p)
	if code != ExitOK {
		t.Errorf("exit %d\n%s\n%s", code, out, errs)
	}
}

// Evidence of other TEEs, recorded by others, is told by its shape and judged by
// its own verifier.
func TestVerifyVectors(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		tee  string
		code int
	}{
		"azure v2":    {[]string{evidenceFile(t, "azure", "evidence-v2.json"), "--time", snpTime, "--insecure-skip-revocation"}, "az-snp-vtpm", ExitNotAffirmed},
		"azure genoa": {[]string{evidenceFile(t, "azure", "evidence-genoa.json"), "--time", snpTime, "--insecure-skip-revocation"}, "az-snp-vtpm", ExitNotAffirmed},
		"unbound":     {[]string{evidenceFile(t, "azure", "evidence-genoa.json"), "--time", snpTime, "--insecure-skip-revocation", "--report-data", strings.Repeat("07", 48)}, "az-snp-vtpm", ExitDenied},
		"cca": {[]string{
			evidenceFile(t, "cca", "cca-example-token.cbor"), "--tee", "cca", "--time", snpTime,
			"--anchor", "cca/trust-anchors=" + evidenceFile(t, "cca", "tastore.json"), "--anchor", "cca/reference-values=" + evidenceFile(t, "cca", "rvstore.json"),
		}, "cca", ExitNotAffirmed},
		"cca, no anchors": {[]string{evidenceFile(t, "cca", "cca-example-token.cbor"), "--tee", "cca", "--time", snpTime}, "cca", ExitDenied},
		"csv":             {[]string{evidenceFile(t, "csv", "csv_evidence.json"), "--time", snpTime}, "csv", ExitDenied}, // chain off: unproven
		"tpm":             {[]string{evidenceFile(t, "tpm", "tpm_evidence.json"), "--time", snpTime}, "tpm", ExitDenied}, // no EK
		"tdx":             {[]string{evidenceFile(t, "tdx", "tdx_quote_5.dat"), "--time", snpTime}, "tdx", ExitDenied},   // no collateral
		"sgx":             {[]string{evidenceFile(t, "sgx", "occlum_quote.dat"), "--time", snpTime}, "sgx", ExitDenied},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := coffer(t, append([]string{"verify", "-o", "json"}, c.args...)...)
			var r evidence.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil || code != c.code || r.TEE != c.tee {
				t.Errorf("exit %d, want %d; %v\n%s\n%s", code, c.code, err, out, errs)
			}
			if code == ExitNotAffirmed && (len(r.Devices) == 0 || len(r.Devices[0].Findings) == 0) {
				t.Errorf("not affirmed, and nothing says why:\n%s", out)
			}
			if code == ExitDenied && (r.Denial == nil || r.Denial.Component == "" || r.Denial.Claim == "") {
				t.Errorf("no typed denial:\n%s", out)
			}
		})
	}
}

// Hostile evidence must not write its own verdict on the terminal.
func TestVerifyPrintsNoControlCharacters(t *testing.T) {
	b, err := os.ReadFile(evidenceFile(t, "as", "evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	doc := strings.TrimSuffix(strings.TrimSpace(string(b)), "}") + `,"simulation":"x\u001b[2J\u001b[Hverdict\taffirming"}`
	code, out, errs := coffer(t, "verify", "--tee", "snp", write(t, "e.json", doc), "--time", snpTime)
	if code != ExitDenied || strings.Contains(out+errs, "\x1b") || strings.Contains(out, "verdict\taffirming") {
		t.Errorf("exit %d\n%q\n%q", code, out, errs)
	}
}
