package measure

import (
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	tpm "github.com/cofferproject/coffer/tee/tpm/measure"
)

func init() { calculators[launch.TPMSim] = measureTPM }

// measureTPM gives the registers of a measured boot under OVMF.
func measureTPM(spec *launch.Spec, in *inputs, r *Result) error {
	if in.firmware == nil || in.vars == nil {
		return errors.New("a measured boot needs firmware and its variable store")
	}
	fw, err := tpm.OpenFirmware(in.firmware, in.vars)
	if err != nil {
		return err
	}
	c, err := tpm.NewCalculator(fw, in.kernel, in.initrd, spec.Cmdline)
	if err != nil {
		return err
	}
	set, err := c.Set(spec.TEE, platform.Sim, spec.MemoryMiB, "coffer measure")
	if err != nil {
		return err
	}
	r.Sets = append(r.Sets, *set)
	events := set.For(spec.VCPUs)
	of := map[int]string{
		0: "firmware, memory layout, vCPU count", 1: "boot options", 2: "option ROMs", 3: "their data", 4: "kernel (Authenticode)", 5: "boot attempts",
		6: "vendor", 7: "secure boot variables", 9: "command line and initrd", 11: "nothing", 14: "nothing",
	}
	for _, n := range refvalue.QuotedPCRs {
		if n == refvalue.PCRInitdata {
			continue
		}
		d := refvalue.Replay(events, n)
		r.row(fmt.Sprintf("pcr%02d", n), d[:], of[n])
	}
	return nil
}
