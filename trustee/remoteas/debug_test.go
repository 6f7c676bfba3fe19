package remoteas

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/cofferproject/coffer/test/vectors"
)

// TestDebug reads whether the host may look in; what is not said counts as yes.
func TestDebug(t *testing.T) {
	parse := func(s string) map[string]any {
		t.Helper()
		var m map[string]any
		if err := json.Unmarshal([]byte(s), &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	outside, err := os.ReadFile(filepath.Join(vectors.Dir(t, "cca"), "cca-claims.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		tee, claims string
		want        bool
	}{
		{"sgx", `{"body":{"attributes.flags":"0500000000000000"}}`, false},
		{"sgx", `{"body":{"attributes.flags":"0700000000000000"}}`, true},
		{"sgx", `{"body":{"attributes.flags":"0000000000000002"}}`, false}, // the bit of another byte
		{"sgx", `{"body":{"attributes.flags":"05"}}`, true},
		{"sgx", `{"body":{"attributes.flags":5}}`, true},
		{"sgx", `{"body":"x"}`, true},
		{"sgx", `{}`, true},
		{"cca", string(outside), false},
		{"cca", `{"platform":{"cca-platform-lifecycle":12288}}`, false},
		{"cca", `{"platform":{"cca-platform-lifecycle":16400}}`, false},
		{"cca", `{"platform":{"cca-platform-lifecycle":20480}}`, true},
		{"cca", `{"platform":{"cca-platform-lifecycle":24576}}`, true},
		{"cca", `{"platform":{"cca-platform-lifecycle":0}}`, true},
		{"cca", `{"platform":{"cca-platform-lifecycle":"x"}}`, true},
		{"cca", `{"platform":{"cca-platform-instance-id":"x"}}`, true},
		{"cca", `{}`, true},
		{"tdx", `{"td_attributes":{"debug":false}}`, false},
		{"tdx", `{}`, true},
		{"snp", `{"policy_debug_allowed":false}`, false},
		{"snp", `{}`, true},
	} {
		if got := debug(tc.tee, parse(tc.claims)); got != tc.want {
			t.Errorf("%s %.80s: %t", tc.tee, tc.claims, got)
		}
	}
}
