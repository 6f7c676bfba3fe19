package measure

import (
	"encoding/hex"

	"github.com/cofferproject/coffer/api/launch"
	nitro "github.com/cofferproject/coffer/tee/nitro/measure"
)

func init() { calculators[launch.NitroSim] = measureNitro }

func measureNitro(spec *launch.Spec, _ *inputs, r *Result) error {
	img, err := nitro.FromSpec(spec)
	if err != nil {
		return err
	}
	for _, p := range []struct {
		name, value string
		of          string
	}{
		{"pcr0", hex.EncodeToString(img.PCR0), "the whole image: kernel, command line, initrd"},
		{"pcr1", hex.EncodeToString(img.PCR1), "kernel, command line, first ramdisk"},
		{"pcr2", hex.EncodeToString(img.PCR2), "further ramdisks: none"},
	} {
		r.Rows = append(r.Rows, Row{p.name, p.value, p.of})
		r.accept("nitro_"+p.name, p.value)
	}
	r.Notes = append(r.Notes, "memory and vCPUs are in no register of an enclave; initdata is extended into PCR 16 by the guest")
	return nil
}
