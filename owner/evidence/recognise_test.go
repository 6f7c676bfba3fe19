package evidence

import (
	"encoding/base64"
	"encoding/json"
	"testing"
)

func quoteHeader(version, kind byte) []byte {
	b := make([]byte, 64)
	b[0], b[4] = version, kind
	return b
}

func TestRecognise(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString
	for doc, want := range map[string]string{
		`{"attestation_report":{},"cert_chain":null}`:            "snp",
		`{"attestation_report":{},"serial_number":[]}`:           "csv",
		`{"cc_eventlog":null,"quote":""}`:                        "tdx",
		`{"quote":"` + b64(quoteHeader(3, 0)) + `"}`:             "sgx",
		`{"quote":"` + b64(quoteHeader(4, 0x81)) + `"}`:          "tdx",
		`{"version":1,"tpm_quote":{},"hcl_report":"","vcek":""}`: "az-snp-vtpm",
		`{"quote":{},"report":[],"vcek":""}`:                     "az-snp-vtpm",
		`{"tpm_quote":{},"hcl_report":"","td_quote":""}`:         "az-tdx-vtpm",
		`{"ak_public":"","tpm_quote":{}}`:                        "tpm",
		`{"device_evidence_list":[]}`:                            "nvidia",
		`{"token":[]}`:                                           "cca",
		string(quoteHeader(5, 0x81)):                             "tdx",
		string(quoteHeader(3, 0)):                                "sgx",
		`{"x":1}`:                                                "",
		"hello":                                                  "",
	} {
		tee, out, err := recognise("", []byte(doc))
		if tee != want || (err == nil) != (want != "") || err == nil && !json.Valid(out) {
			t.Errorf("%q: %q, %v, want %q", doc, tee, err, want)
		}
	}
	if tee, _, err := recognise("azsnpvtpm", []byte(`{}`)); err != nil || tee != "az-snp-vtpm" {
		t.Errorf("an older spelling: %q, %v", tee, err)
	}
}

func FuzzRecognise(f *testing.F) {
	f.Add("", []byte(`{"token":[1]}`))
	f.Add("cca", []byte{1, 2, 3})
	f.Add("", quoteHeader(4, 0x81))
	f.Fuzz(func(t *testing.T, tee string, file []byte) {
		if _, doc, err := recognise(tee, file); err == nil && len(doc) == 0 {
			t.Error("no document")
		}
	})
}
