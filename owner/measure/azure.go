package measure

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/snp/firmware"
	snp "github.com/cofferproject/coffer/tee/snp/measure"
)

// Azure's own paravisor is not in anybody's LaunchSpec, so only the simulated
// machine is measured.
func init() { calculators[launch.AzureSNPSim] = measureAzure }

// measureAzure gives the launch digest of the paravisor, for which the TEE
// firmware stands, and PCR 11 of a unified kernel image.
func measureAzure(spec *launch.Spec, in *inputs, r *Result) error {
	if in.teeFirmware == nil {
		return errors.New("no tee_firmware, which stands for the paravisor")
	}
	model := spec.CPUModel
	if model == "" {
		model = snp.DefaultCPUModel
	}
	sig, err := firmware.Signature(model)
	if err != nil {
		return err
	}
	d, err := snp.Launch(snp.Input{
		TEE: launch.SNP, Firmware: in.teeFirmware, Kernel: snp.HashKernel(nil, nil, ""), VCPUs: 1,
		Signature: sig, Features: launch.SNPActive, VMM: firmware.QEMU,
	})
	if err != nil {
		return err
	}
	r.row("measurement", d, "paravisor (TEE firmware without a kernel)")
	r.accept("measurement", base64.StdEncoding.EncodeToString(d))
	pcr := make([]byte, sha256.Size)
	extend := func(b []byte) {
		e := sha256.Sum256(b)
		s := sha256.Sum256(append(pcr, e[:]...))
		pcr = s[:]
	}
	for i, section := range [][]byte{in.kernel, []byte(spec.Cmdline), in.initrd} {
		if len(section) > 0 {
			extend([]byte([]string{".linux\x00", ".cmdline\x00", ".initrd\x00"}[i]))
			extend(section)
		}
	}
	r.row("pcr11", pcr, "sections of the image: kernel, command line, initrd")
	r.accept("snp_pcr4", hex.EncodeToString(make([]byte, sha256.Size))) // no firmware of the simulation loads an image
	r.accept("snp_pcr11", hex.EncodeToString(pcr))
	r.Notes = append(r.Notes, "memory and vCPUs are in no register")
	return nil
}
