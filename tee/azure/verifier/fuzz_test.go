package verifier

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/verify"
)

// FuzzVerify demands a denial of whatever is not a machine's evidence: no crash,
// and no error that is none.
func FuzzVerify(f *testing.F) {
	f.Add([]byte(`{}`), false)
	if dir := "../../../../shared/vectors/azure"; exists(dir) {
		for name, tdx := range map[string]bool{"evidence-v2.json": false, "evidence-genoa.json": false, "az-tdx-evidence-v1.json": true} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, tdx)
		}
	}
	snp := newSNP(f, recorded, Options{InsecureAcceptUnboundReport: true})
	tdx := newTDX(f, verify.Config{Kind: verify.Production})
	// Behind the hardware's signature no mutation gets; what comes then is judged
	// as if there were none.
	open := newVerifier("az-snp-vtpm", recorded, Options{}, fakeHardware{make([]byte, 64)})
	f.Fuzz(func(t *testing.T, b []byte, isTDX bool) {
		vs := []*Verifier{snp, open}
		if isTDX {
			vs = []*Verifier{tdx}
		}
		for _, v := range vs {
			in := verify.Input{Evidence: b, ReportData: make([]byte, 48), Now: day}
			if _, err := v.Verify(&in); err == nil {
				t.Error("accepted")
			} else if _, ok := denial.As(err); !ok {
				t.Errorf("not a denial: %v", err)
			}
		}
	})
}

func exists(dir string) bool {
	_, err := os.Stat(dir)
	return err == nil
}
