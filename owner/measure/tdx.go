package measure

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cofferproject/coffer/api/launch"
	tdx "github.com/cofferproject/coffer/tee/tdx/measure"
)

func init() { calculators[launch.TDX], calculators[launch.TDXSim] = measureTDX, measureTDX }

// opened is the firmware that was opened last: unpacking it takes longer than all
// the rest, and who looks for an explanation measures many launches with it.
var opened struct {
	sync.Mutex
	sha256 string
	fw     *tdx.Firmware
}

func openTDX(in *inputs) (*tdx.Firmware, error) {
	b, sum := in.teeFirmware, in.digests["tee firmware"]
	if b == nil {
		b, sum = in.firmware, in.digests["firmware"]
	}
	if b == nil {
		return nil, errors.New("no firmware: a TD starts with it")
	}
	opened.Lock()
	defer opened.Unlock()
	if opened.sha256 == sum {
		return opened.fw, nil
	}
	fw, err := tdx.OpenFirmware(b)
	if err == nil {
		opened.sha256, opened.fw = sum, fw
	}
	return fw, err
}

func measureTDX(spec *launch.Spec, in *inputs, r *Result) error {
	fw, err := openTDX(in)
	if err != nil {
		return err
	}
	m, err := tdx.Compute(spec, fw, in.kernel, in.initrd, nil)
	if err != nil {
		return err
	}
	r.row("mr_td", m.MRTD[:], "TEE firmware")
	r.accept("mr_td", m.MRTD.String())
	if m.RTMR0 != nil {
		r.row("rtmr_0", m.RTMR0[:], fmt.Sprintf("memory size (%d MiB), vCPU count (%d), firmware's variables, QEMU's tables", spec.MemoryMiB, spec.VCPUs))
		r.accept("rtmr_0", m.RTMR0.String())
	}
	for _, why := range m.Missing {
		r.Notes = append(r.Notes, "rtmr_0 is not known: it depends on "+why)
	}
	r.row("rtmr_1", m.RTMR1[:], "kernel")
	r.row("rtmr_2", m.RTMR2[:], "command line and initrd")
	r.accept("rtmr_1", m.RTMR1.String())
	r.accept("rtmr_2", m.RTMR2.String())
	for _, e := range m.Events {
		switch e.What {
		case tdx.WhatKernel:
			r.accept("tdvfkernel", e.Digest.String())
		case tdx.WhatCmdline:
			r.accept("tdvfkernelparams", e.Digest.String())
		}
	}
	r.row("rtmr_3", m.RTMR3[:], "nothing at start: run-time events extend it")
	return nil
}
