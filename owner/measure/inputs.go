package measure

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/snp/firmware"
	snp "github.com/cofferproject/coffer/tee/snp/measure"
)

// inputs are the files of a launch, read once.
type inputs struct {
	kernel, initrd, firmware, vars, teeFirmware, image, sigstruct []byte

	hostKeys [][]byte // documents, in the spec's order

	digests map[string]string
}

// input is one file to read.
type input struct {
	name string
	file launch.File
	to   *[]byte
}

func read(spec *launch.Spec) (*inputs, error) {
	if spec.TEE.Process() {
		return readProcess(spec)
	}
	in := &inputs{digests: map[string]string{}}
	files := []input{
		{"kernel", spec.Kernel, &in.kernel}, {"initrd", spec.Initrd, &in.initrd}, {"firmware", spec.Firmware, &in.firmware},
		{"vars", spec.VarsFile, &in.vars}, {"tee firmware", spec.TEEFirmware, &in.teeFirmware}, {"image", spec.Image, &in.image},
	}
	if spec.SGX != nil {
		files = append(files, input{"sigstruct", spec.SGX.Sigstruct, &in.sigstruct})
	}
	if spec.SE != nil {
		in.hostKeys = make([][]byte, len(spec.SE.HostKeys))
		for i, f := range spec.SE.HostKeys {
			files = append(files, input{fmt.Sprintf("host key document %d", i+1), f, &in.hostKeys[i]})
		}
	}
	for _, f := range files {
		if f.file.Path == "" {
			continue
		}
		b, err := f.file.Read(launch.MaxFile)
		if err != nil {
			return nil, fmt.Errorf("measuring the %s: %w", f.name, err)
		}
		sum := sha256.Sum256(b)
		in.digests[f.name] = hex.EncodeToString(sum[:])
		*f.to = b
	}
	return in, nil
}

// of gives by content what spec names.
func (in *inputs) of(spec *launch.Spec) *launch.Inputs {
	out := &launch.Inputs{
		TEE: string(spec.TEE), Kernel: in.digests["kernel"], Initrd: in.digests["initrd"], Firmware: in.digests["tee firmware"],
		Cmdline: spec.Cmdline, VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB,
	}
	if out.Firmware == "" {
		out.Firmware = in.digests["firmware"]
	}
	if spec.TEE.Firmware() != "snp" {
		return out // no other TEE measures what follows
	}
	if out.CPUModel = spec.CPUModel; out.CPUModel == "" {
		out.CPUModel = snp.DefaultCPUModel
	}
	if p := spec.SNP; p != nil && spec.TEE != launch.AzureSNPSim {
		if p.VMM != string(firmware.QEMU) {
			out.VMM = p.VMM
		}
		if p.Features != launch.SNPActive {
			out.SEVFeatures = p.Features
		}
	}
	return out
}
