package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sgxmeasure "github.com/cofferproject/coffer/tee/sgx/measure"
)

// TestSGXSign: what is signed is what coffer measure takes, with the signer's values.
func TestSGXSign(t *testing.T) {
	enclave, out := enclaveFile(t), filepath.Join(t.TempDir(), "app.sig")
	key := sgxVectors + "signer.pem"
	code, text, errs := coffer(t, "sgx", "sign", "--enclave", enclave, "--key", key, "--isv-prod-id", "7", "--isv-svn", "3", "--kss", "--date", "2026-11-27", "--out", out, "--output", "json")
	if code != 0 {
		t.Fatal(errs)
	}
	var a signedEnclave
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sgxmeasure.ParseSigstruct(b)
	if err != nil || s.ProductID != 7 || s.SVN != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	r, _ := measured(t, "sgx", "--enclave", enclave, "--sigstruct", out, "--accept-signer")
	for name, want := range map[string]string{"sgx_mr_enclave": a.MREnclave, "sgx_mr_signer": a.MRSigner} {
		if got, _ := r.Values[name].([]any); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v, signed %s", name, got, want)
		}
	}
	before := string(b)
	for want, args := range map[string][]string{
		"--key is missing":      {"--enclave", enclave, "--out", out},
		"no private key in PEM": {"--enclave", enclave, "--key", enclave, "--out", out},
		"sgxs":                  {"--enclave", key, "--key", key, "--out", out},
		"--date":                {"--enclave", enclave, "--key", key, "--out", out, "--date", "tomorrow"},
		"no such file":          {"--enclave", filepath.Join(t.TempDir(), "none"), "--key", key, "--out", out},
	} {
		if code, _, errs := coffer(t, append([]string{"sgx", "sign"}, args...)...); code == 0 || !strings.Contains(errs, want) {
			t.Errorf("%q: %d %s, want %q", args, code, errs, want)
		}
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != before {
		t.Error("a refusal changed the file that was there")
	}
}
