package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	host "github.com/cofferproject/coffer/host/simhw"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/snp/firmware"
	"github.com/cofferproject/coffer/tee/snp/sim"
)

// generation is the chip that is played.
var generation = sim.Genoa

func powerSNP(c *host.Config, in *host.Inputs) (*host.Model, error) {
	a, err := sim.OpenAuthority(c.CADir, time.Now())
	if err != nil {
		return nil, err
	}
	m, digest, hostData, err := launchSNP(a, c, in, launch.SNPSim)
	if err != nil {
		return nil, err
	}
	tcb := generation.DefaultTCB()
	return &host.Model{
		Hardware: reporter{m}, Provider: m.Provider(), Root: a.Root().Raw, Notes: snpNotes,
		Digests: map[string]string{"measurement": hex.EncodeToString(digest[:]), "init_data": hex.EncodeToString(hostData)},
		Platform: map[string]any{
			"snp_bootloader": []any{int(tcb.Bootloader)}, "snp_microcode": []any{int(tcb.Microcode)},
			"snp_snp_svn": []any{int(tcb.SNP)}, "snp_tee_svn": []any{int(tcb.TEE)},
		},
	}, nil
}

// snpNotes names what the launch spec says and no QEMU of ours runs.
var snpNotes = []string{"guest policy"}

// launchSNP plays the launch of one guest.
func launchSNP(a *sim.Authority, c *host.Config, in *host.Inputs, tee launch.TEE) (m *sim.Machine, digest [48]byte, hostData []byte, err error) {
	fail := func(err error) (*sim.Machine, [48]byte, []byte, error) { return nil, digest, nil, err }
	if len(in.Firmware) == 0 {
		return fail(errors.New("the launch spec names no TEE firmware to measure"))
	}
	if in.CPUModel == "" {
		in.CPUModel = tee.DefaultCPUModel()
	}
	sig, err := firmware.Signature(in.CPUModel)
	if err != nil {
		return fail(err)
	}
	policy, features := launch.DefaultSNPPolicy, launch.SNPActive
	if p := c.Launch.SNP; p != nil {
		if p.Policy != 0 {
			policy = p.Policy
		}
		if p.Features != 0 {
			features = p.Features
		}
	}
	si := sim.Inputs{
		Firmware: in.Firmware, Kernel: sha256.Sum256(in.Kernel), Initrd: sim.NoInitrd(), Cmdline: in.Cmdline,
		VCPUs: in.VCPUs, Signature: sig, Features: features,
	}
	if in.Initrd != nil {
		si.Initrd = sha256.Sum256(in.Initrd)
	}
	if digest, err = sim.Launch(si); err != nil {
		return fail(err)
	}
	if hostData, err = register(tee, in, snp.HostDataSize); err != nil {
		return fail(err)
	}
	chip, err := a.Chip(generation, generation.DefaultTCB(), time.Now())
	if err != nil {
		return fail(err)
	}
	m, err = chip.Launch(sim.Guest{Digest: digest, HostData: [snp.HostDataSize]byte(hostData), Policy: snp.Policy(policy)})
	return m, digest, hostData, err
}
