package vmm

import (
	"fmt"
	"os"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/host/filedigest"
	"github.com/cofferproject/coffer/host/supervise"
)

// inputs are the files of one launch, opened and checked, in the order in which
// QEMU inherits them.
type inputs struct {
	digests filedigest.Cache
	files   []*os.File
	paths   Paths
}

// openInputs opens everything that a Spec and a platform name.
func openInputs(p *platform.Platform, spec *launch.Spec, digests filedigest.Cache) (*inputs, error) {
	in := &inputs{digests: digests}
	if err := in.open(p, spec); err != nil {
		in.close()
		return nil, err
	}
	return in, nil
}

func (in *inputs) open(p *platform.Platform, spec *launch.Spec) error {
	for i := 1; i < len(p.QEMU.ArgsPrefix); i++ {
		if p.QEMU.ArgsPrefix[i-1] != "-L" {
			continue
		}
		d, err := os.Open(p.QEMU.ArgsPrefix[i])
		if err != nil {
			return fmt.Errorf("opening QEMU's ROMs: %w", err)
		}
		in.paths.ROMs = append(in.paths.ROMs, in.path(d))
	}
	what, file := "kernel", spec.Kernel
	if spec.TEE.LoadsImage() {
		what, file = "image", spec.Image
	}
	k, err := openLaunched(in.digests, what, file)
	if err != nil {
		return err
	}
	in.paths.Kernel = in.path(k)
	if spec.Initrd.Path != "" {
		rd, err := openLaunched(in.digests, "initrd", spec.Initrd)
		if err != nil {
			return err
		}
		in.paths.Initrd = in.path(rd)
	}
	if spec.Firmware.Path != "" {
		if err := in.firmware(spec); err != nil {
			return err
		}
	}
	if spec.TEE.Hardware() {
		if err := in.hardware(spec); err != nil {
			return err
		}
	}
	if err := in.openDisks(spec); err != nil {
		return err
	}
	if spec.Initdata != nil {
		if err := in.initdata(spec.Initdata); err != nil {
			return err
		}
	}
	return nil
}

func (in *inputs) firmware(spec *launch.Spec) error {
	code, err := openLaunched(in.digests, "firmware", spec.Firmware)
	if err != nil {
		return err
	}
	in.paths.Code = in.add(code)
	tmpl, err := openLaunched(in.digests, "firmware's variable store", spec.VarsFile)
	if err != nil {
		return err
	}
	vars, err := copyToMemory("firmware's variable store", tmpl)
	if err != nil {
		return err
	}
	in.paths.Vars = in.add(vars)
	return nil
}

func (in *inputs) initdata(plain []byte) error {
	disk, err := initdata.EncodeDevice(plain)
	if err != nil {
		return err
	}
	m, err := memory("initdata")
	if err != nil {
		return err
	}
	if _, err := m.Write(disk); err != nil {
		_ = m.Close()
		return fmt.Errorf("writing the initdata disk: %w", err)
	}
	r, err := readOnly(m)
	if err != nil {
		return err
	}
	in.paths.Initdata = in.add(r)
	return nil
}

// add gives the descriptor that f will be in QEMU.
func (in *inputs) add(f *os.File) int {
	in.files = append(in.files, f)
	return supervise.FD(len(in.files) - 1)
}

func (in *inputs) path(f *os.File) string { return fmt.Sprintf("/dev/fd/%d", in.add(f)) }

func (in *inputs) close() {
	for _, f := range in.files {
		_ = f.Close()
	}
	in.files = nil
}
