package main

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/simhw"
	host "github.com/cofferproject/coffer/host/simhw"
	"github.com/cofferproject/coffer/tee/collateral"
	intel "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/tdx/measure"
	"github.com/cofferproject/coffer/tee/tdx/sim"
)

// mrConfigIDSize is the size of MRCONFIGID in bytes.
const mrConfigIDSize = 48

func powerTDX(c *host.Config, in *host.Inputs) (*host.Model, error) {
	p, err := intelMachine(c.CADir)
	if err != nil {
		return nil, err
	}
	fw, err := measure.OpenFirmware(in.Firmware)
	if err != nil {
		return nil, err
	}
	si := sim.Inputs{Kernel: in.Kernel, Initrd: in.Initrd, Cmdline: in.Cmdline, MemoryMiB: in.MemoryMiB, VCPUs: in.VCPUs, Firmware: fw}
	if in.Initdata != nil {
		if si.InitdataDigest, err = register(launch.TDXSim, in, mrConfigIDSize); err != nil {
			return nil, err
		}
	}
	m, err := sim.New(p, si)
	if err != nil {
		return nil, err
	}
	items, err := p.Collateral(intel.CollateralOptions{})
	if err != nil {
		return nil, err
	}
	bundle, err := collateral.NewSet(items...).Encode()
	if err != nil {
		return nil, err
	}
	td := p.TD()
	model := &host.Model{
		Hardware: &tdx{m}, Provider: m.Provider(), Root: p.Root().Raw, Collateral: bundle, Notes: []string{m.Note()},
		Digests:  map[string]string{},
		Platform: map[string]any{"xfam": []any{hex.EncodeToString(td.XFAM[:])}},
	}
	mrtd, config := m.MRTD(), m.MRConfigID()
	model.Digests["mr_td"], model.Digests["init_data"] = hex.EncodeToString(mrtd[:]), hex.EncodeToString(config[:])
	for i := range 4 {
		r, err := m.RTMR(i)
		if err != nil {
			return nil, err
		}
		model.Digests[fmt.Sprintf("rtmr_%d", i)] = hex.EncodeToString(r[:])
	}
	return model, nil
}

// tdx is a TD with its registers and log.
type tdx struct{ *sim.Machine }

// Handle implements host.Hardware.
func (t *tdx) Handle(ctx context.Context, op simhw.Op, arg byte, p []byte) ([]byte, error) {
	switch op {
	case simhw.OpReport:
		return reporter{t.Machine}.Handle(ctx, op, arg, p)
	case simhw.OpInitdataRegister:
		r := t.MRConfigID()
		return r[:], nil
	case simhw.OpEventLog:
		return t.CCEL(), nil
	case simhw.OpReadRegister:
		r, err := t.RTMR(int(arg))
		return r[:], err
	case simhw.OpExtendRegister:
		return nil, t.Extend(int(arg), p)
	}
	return nil, host.ErrUnsupported
}
