package cli

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/owner/measure"
	"github.com/cofferproject/coffer/owner/run"
)

// For programs a refusal is one document: the trustee's denial, and beside it what
// coffer has computed of the launch.
func TestRefusalAsJSON(t *testing.T) {
	root := NewRoot()
	cmd, _, err := root.Find([]string{"run"})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags([]string{"--output", "json"}); err != nil {
		t.Fatal(err)
	}
	err = runError(&run.Denied{
		Denial: &denial.Denial{Reason: "status-unacceptable", Claim: "cpu0 executables: snp.measurement"},
		Launch: &measure.Explanation{Differences: []measure.Difference{{Input: measure.VCPUs, Expected: "2", Launched: "3", Fields: []string{"snp.measurement"}}}},
	})
	var out bytes.Buffer
	PrintError(&out, cmd, err)
	var r struct {
		Code   int
		Denial *denial.Denial
		Launch *measure.Explanation
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Code != ExitDenied || r.Denial == nil || r.Launch == nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if d := r.Launch.Differences; len(d) != 1 || d[0].Input != measure.VCPUs || d[0].Launched != "3" {
		t.Errorf("%+v", d)
	}
}
