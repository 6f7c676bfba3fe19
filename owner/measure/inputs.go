package measure

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/snp/firmware"
	snp "github.com/cofferproject/coffer/tee/snp/measure"
)

const maxFile = 1 << 30

// inputs are the files of a launch, read once.
type inputs struct {
	kernel, initrd, firmware, vars, teeFirmware []byte

	digests map[string]string
}

func read(spec *launch.Spec) (*inputs, error) {
	in := &inputs{digests: map[string]string{}}
	for _, f := range []struct {
		name string
		file launch.File
		to   *[]byte
	}{
		{"kernel", spec.Kernel, &in.kernel}, {"initrd", spec.Initrd, &in.initrd}, {"firmware", spec.Firmware, &in.firmware},
		{"vars", spec.VarsFile, &in.vars}, {"tee firmware", spec.TEEFirmware, &in.teeFirmware},
	} {
		if f.file.Path == "" {
			continue
		}
		b, err := readFile(f.file.Path)
		if err != nil {
			return nil, fmt.Errorf("measuring the %s: %w", f.name, err)
		}
		sum := sha256.Sum256(b)
		in.digests[f.name] = hex.EncodeToString(sum[:])
		if f.file.SHA256 != "" && f.file.SHA256 != in.digests[f.name] {
			return nil, fmt.Errorf("measuring the %s: %s has SHA-256 %s, not %s", f.name, f.file.Path, in.digests[f.name], f.file.SHA256)
		}
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

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	if err == nil && len(b) == 0 {
		err = errors.New(path + " is empty")
	}
	return b, err
}
