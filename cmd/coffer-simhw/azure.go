package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/simhw"
	host "github.com/cofferproject/coffer/host/simhw"
	"github.com/cofferproject/coffer/tee/azure/sim"
	snpsim "github.com/cofferproject/coffer/tee/snp/sim"
)

// pcrImage takes the unified kernel image's sections, as systemd-stub measures
// them.
const pcrImage = 11

// powerAzure plays a confidential VM on Azure: SNP hardware that measures the
// paravisor alone, and the paravisor's TPM that measures the image.
func powerAzure(c *host.Config, in *host.Inputs) (*host.Model, error) {
	a, err := snpsim.OpenAuthority(c.CADir, time.Now())
	if err != nil {
		return nil, err
	}
	// The paravisor's place is taken by the TEE firmware without a kernel; one
	// vCPU and no host data, as the guest's are not the hardware's business.
	paravisor := host.Inputs{Firmware: in.Firmware, CPUModel: in.CPUModel, VCPUs: 1}
	m, digest, _, err := launchSNP(a, c, &paravisor, launch.AzureSNPSim)
	if err != nil {
		return nil, err
	}
	in.CPUModel = paravisor.CPUModel
	pcrs := sim.ResetPCRs()
	for _, s := range []struct {
		name string
		data []byte
	}{{".linux", in.Kernel}, {".cmdline", []byte(in.Cmdline)}, {".initrd", in.Initrd}} {
		if len(s.data) == 0 {
			continue
		}
		for _, b := range [][]byte{append([]byte(s.name), 0), s.data} {
			event := sha256.Sum256(b)
			pcrs[pcrImage] = sha256.Sum256(append(pcrs[pcrImage][:], event[:]...))
		}
	}
	v, err := sim.New(sim.Options{SNP: m, PCRs: pcrs})
	if err != nil {
		return nil, err
	}
	tcb := generation.DefaultTCB()
	return &host.Model{
		Hardware: vtpm{v}, Provider: "azure-vtpm", Root: a.Root().Raw,
		Notes: append([]string{"the paravisor is that firmware without a kernel", "memory and vCPUs are in no register", "of the boot only the image's sections (PCR 11) are measured"}, snpNotes...),
		Digests: map[string]string{
			"measurement": hex.EncodeToString(digest[:]), "pcr11": hex.EncodeToString(pcrs[pcrImage][:]),
		},
		Platform: map[string]any{
			"tcb_bootloader": []any{fmt.Sprint(tcb.Bootloader)}, "tcb_microcode": []any{fmt.Sprint(tcb.Microcode)},
			"tcb_snp": []any{fmt.Sprint(tcb.SNP)}, "tcb_tee": []any{fmt.Sprint(tcb.TEE)},
			"smt_enabled": []any{"true"}, "tsme_enabled": []any{"false"}, "abi_major": []any{"0"}, "abi_minor": []any{"0"},
			"single_socket": []any{"false"}, "smt_allowed": []any{"true"},
		},
	}, nil
}

// vtpm is the paravisor's TPM and the metadata service beside it.
type vtpm struct{ *sim.VTPM }

// Handle implements host.Hardware.
func (v vtpm) Handle(_ context.Context, op simhw.Op, _ byte, p []byte) ([]byte, error) {
	switch op {
	case simhw.OpTPM:
		return v.Send(p)
	case simhw.OpMetadata:
		b, err := simhw.SplitBlobs(p, 2)
		if err != nil {
			return nil, err
		}
		return v.Metadata(string(b[0]), b[1])
	}
	return nil, host.ErrUnsupported
}
