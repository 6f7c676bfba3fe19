package measure

import (
	"encoding/hex"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	snp "github.com/cofferproject/coffer/tee/snp/measure"
)

func init() {
	for _, t := range []launch.TEE{launch.SNP, launch.SNPSim, launch.SEV, launch.SEVES} {
		calculators[t] = measureSNP
	}
}

// measureSNP gives the launch digest.
func measureSNP(spec *launch.Spec, _ *inputs, r *Result) error {
	in, err := snp.FromSpec(spec)
	if err != nil {
		return err
	}
	d, err := snp.Launch(in)
	if err != nil {
		return err
	}
	model := spec.CPUModel
	if model == "" {
		model = snp.DefaultCPUModel
	}
	r.row("measurement", d, fmt.Sprintf("TEE firmware, kernel, initrd, command line, %d vCPU of model %s", spec.VCPUs, model))
	if spec.TEE.Wire() == "snp" {
		r.accept("snp_launch_measurement", hex.EncodeToString(d))
	}
	return nil
}
