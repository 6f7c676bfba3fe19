package measure

import (
	"encoding/base64"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	cca "github.com/cofferproject/coffer/tee/cca/measure"
)

// Only the simulator's host is known: what a real one offers a realm, and its
// device tree, no LaunchSpec says.
func init() { calculators[launch.CCASim] = measureCCA }

func measureCCA(spec *launch.Spec, _ *inputs, r *Result) error {
	rim, err := cca.Compute(spec, nil)
	if err != nil {
		return err
	}
	r.row("cca-realm-initial-measurement", rim, fmt.Sprintf("kernel, initrd, device tree (command line, %d MiB, %d vCPU)", spec.MemoryMiB, spec.VCPUs))
	r.accept("cca_realm_initial_measurement", base64.StdEncoding.EncodeToString(rim))
	return nil
}
