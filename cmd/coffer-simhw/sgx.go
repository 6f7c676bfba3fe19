package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/simhw"
	host "github.com/cofferproject/coffer/host/simhw"
	"github.com/cofferproject/coffer/tee/collateral"
	intel "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/sgx"
	"github.com/cofferproject/coffer/tee/sgx/measure"
	"github.com/cofferproject/coffer/tee/sgx/sim"
)

// powerSGX plays the CPU that built an enclave of the running process's manifest.
func powerSGX(c *host.Config, in *host.Inputs) (*host.Model, error) {
	if in.Process == nil {
		return nil, errors.New("no process was read")
	}
	machine, err := intelMachine(c.CADir)
	if err != nil {
		return nil, err
	}
	content, err := in.Process.Encode()
	if err != nil {
		return nil, err
	}
	mr, err := measure.LibraryOS(content)
	if err != nil {
		return nil, err
	}
	config, err := register(launch.SGXSim, in, sgx.ConfigIDSize)
	if err != nil {
		return nil, err
	}
	items, err := machine.Collateral(intel.CollateralOptions{})
	if err != nil {
		return nil, err
	}
	bundle, err := collateral.NewSet(items...).Encode()
	if err != nil {
		return nil, err
	}
	fuses, err := host.Keep(c.CADir, "sgx-seal.key", func() ([]byte, error) {
		b := make([]byte, 32)
		rand.Read(b)
		return b, nil
	})
	if err != nil {
		return nil, err
	}
	e := sim.New(machine, sim.Measured{MREnclave: mr, ConfigID: [sgx.ConfigIDSize]byte(config)})
	e.SetFuses(fuses)
	return &host.Model{
		Hardware: enclave{e}, Provider: sgx.WireName, Root: machine.Root().Raw, Collateral: bundle,
		Digests: map[string]string{
			"mr_enclave": hex.EncodeToString(mr[:]), "init_data": hex.EncodeToString(config),
			"libos.runtime": in.Process.Runtime, "libos.agent": in.Process.Agent, "libos.config": in.Process.Config,
		},
	}, nil
}

// intelMachine gives this machine's simulated Intel platform: one for TDX and SGX, as
// a machine has one.
func intelMachine(dir string) (*intel.Platform, error) {
	state, err := host.Keep(dir, "intel.json", func() ([]byte, error) {
		p, err := intel.New(intel.Options{})
		if err != nil {
			return nil, err
		}
		return p.Encode()
	})
	if err != nil {
		return nil, err
	}
	return intel.Load(state)
}

// enclave gives quotes and reports.
type enclave struct{ e *sim.Enclave }

// Handle implements host.Hardware.
func (e enclave) Handle(ctx context.Context, op simhw.Op, arg byte, p []byte) ([]byte, error) {
	if op == simhw.OpSealingKey {
		return e.e.SealingKey(arg, p)
	}
	if op != simhw.OpReport {
		return nil, host.ErrUnsupported
	}
	quote, err := e.e.Quote(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("quoting: %w", err)
	}
	report, err := e.e.Report(ctx)
	if err != nil {
		return nil, err
	}
	return simhw.JoinBlobs(quote, report), nil
}
