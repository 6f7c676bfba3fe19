package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSealForHardware seals a pod for TEEs that this machine has not: the trustee then
// knows what their hardware will measure, in a namespace that refuses simulations.
func TestSealForHardware(t *testing.T) {
	t.Parallel()
	home := shared.newHome(t)
	tr := shared.startTrustee(t, home, "")
	manifest := write(t, home, "pod.yaml", okPod)
	for _, tee := range []string{"snp", "tdx"} {
		out := filepath.Join(home, tee+".yaml")
		shared.must(t, home, append([]string{"seal", manifest, "--tee", tee, "--registries", shared.registries, "--out", out}, tr.flags()...)...)
		if b, err := os.ReadFile(out); err != nil || !strings.Contains(string(b), "cc_init_data") {
			t.Errorf("%s: no sealed manifest: %v", tee, err)
		}
		refs := shared.must(t, home, append([]string{"reference-values", "ls", "-n", "default", "--output", "json"}, tr.flags()...)...)
		if !strings.Contains(refs, `"tee": "`+tee+`"`) || !strings.Contains(refs, "coffer-measure-"+tee+"-release-") {
			t.Errorf("%s: its launch is not among the reference values: %.2000s", tee, refs)
		}
	}
	var list []struct {
		Name      string `json:"name"`
		Simulated bool   `json:"simulated"`
	}
	raw := shared.must(t, home, append([]string{"namespace", "ls", "--output", "json"}, tr.flags()...)...)
	if err := json.Unmarshal([]byte(raw), &list); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	found := false
	for _, n := range list {
		if n.Name == "default" {
			if found = true; n.Simulated {
				t.Error("pods of hardware would attest in a simulated namespace")
			}
		}
	}
	if !found {
		t.Errorf("no namespace: %s", raw)
	}
	for _, args := range [][]string{
		{"run", manifest, "--tee", "snp"}, {"seal", manifest, "--tee", "cca"}, {"seal", manifest, "--tee", "snp"}, // without a trustee of its own
	} {
		if _, stderr, code := shared.coffer(t, home, args...); code == 0 {
			t.Errorf("coffer %v succeeded: %s", args, stderr)
		}
	}
}
