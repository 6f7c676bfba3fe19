package measure

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/snp/firmware"
)

// DefaultCPUModel is the vCPU model of a LaunchSpec that names none.
const DefaultCPUModel = "EPYC-v4"

// FromSpec reads what spec launches. Simulated SNP measures what the hardware
// would.
func FromSpec(spec *launch.Spec) (Input, error) {
	in, err := fromSpec(spec)
	if err != nil {
		return Input{}, fmt.Errorf("computing launch digest: %w", err)
	}
	return in, nil
}

func fromSpec(spec *launch.Spec) (in Input, err error) {
	if err := spec.Validate(); err != nil {
		return in, err
	}
	in.VCPUs = spec.VCPUs
	switch spec.TEE {
	case launch.SNP, launch.SNPSim:
		in.TEE, in.Features = launch.SNP, launch.SNPActive
	case launch.SEV, launch.SEVES:
		in.TEE = spec.TEE
	default:
		return in, fmt.Errorf("TEE %q has no SEV launch digest", spec.TEE)
	}
	vmm := ""
	if p := spec.SNP; p != nil {
		vmm = p.VMM
		if p.Features != 0 {
			in.Features = p.Features
		}
	}
	if in.VMM, err = firmware.ParseVMM(vmm); err != nil {
		return in, err
	}
	model := spec.CPUModel
	if model == "" {
		model = DefaultCPUModel
	}
	if in.Signature, err = firmware.Signature(model); err != nil {
		return in, err
	}
	fw := spec.TEEFirmware
	if fw.Path == "" {
		if spec.TEE.Simulated() {
			return in, errors.New("no tee_firmware: the simulation measures it and boots another one")
		}
		fw = spec.Firmware
	}
	if fw.Path == "" {
		return in, fmt.Errorf("no tee_firmware: %s starts with it", spec.TEE)
	}
	if in.Firmware, err = fw.Read(firmware.MaxSize); err != nil {
		return in, fmt.Errorf("firmware: %w", err)
	}
	h := &Hashes{Initrd: sha256.Sum256(nil), Cmdline: HashCmdline(spec.Cmdline)}
	if h.Kernel, err = hashFile(spec.Kernel); err != nil {
		return in, fmt.Errorf("kernel: %w", err)
	}
	if spec.Initrd.Path != "" {
		if h.Initrd, err = hashFile(spec.Initrd); err != nil {
			return in, fmt.Errorf("initrd: %w", err)
		}
	}
	in.Kernel = h
	return in, nil
}

func hashFile(f launch.File) (sum [32]byte, err error) {
	r, err := os.Open(f.Path)
	if err != nil {
		return sum, err
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(r, launch.MaxFile+1))
	if err == nil && n > launch.MaxFile {
		err = fmt.Errorf("%s: longer than %d bytes", f.Path, launch.MaxFile)
	}
	if err != nil {
		return sum, err
	}
	sum = [32]byte(h.Sum(nil))
	return sum, f.CheckDigest(sum)
}
