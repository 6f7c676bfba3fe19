package appraisal

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// A record has room for so many launches; the others are counted.
func TestLaunchesAreBounded(t *testing.T) {
	var all []tenant.Launch
	for i := range 100 {
		tee := launch.SNPSim
		if i%2 == 1 {
			tee = launch.TDX
		}
		l := trusteeapi.Reference{
			Bundle: fmt.Sprint(i), Launch: &launch.Inputs{TEE: string(tee), Cmdline: strings.Repeat("a", 2048), VCPUs: 1, MemoryMiB: 256},
		}
		b, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tenant.Launch{Reference: l, Size: len(b)})
	}
	out, omitted := launches(all, "snp")
	b, err := json.Marshal(out)
	if err != nil || len(out) < 5 || len(out)+omitted != 50 || len(b) > trusteeapi.MaxReferences+len(out)+2 {
		t.Errorf("%d and %d, %d bytes, %v", len(out), omitted, len(b), err)
	}
	for _, l := range out {
		if l.Launch.TEE != "snp-sim" {
			t.Errorf("%+v", l.Launch)
		}
	}
	if out, omitted = launches(all, "cca"); out != nil || omitted != 0 {
		t.Errorf("%v, %d", out, omitted)
	}
}
