package measure

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/eventlog"
)

// Measured is one thing that goes into RTMR 0 and that no file of the launch
// determines.
type Measured struct {
	What   string `json:"what"` // for people
	Digest Digest `json:"digest"`
}

// Platform is what QEMU and the firmware make up while they start, and what
// therefore must be observed or given. SPEC.md says how it is got.
type Platform struct {
	// FWCfg are the fw_cfg files that the firmware measures. nil: those of a
	// kernel that is handed over directly (DirectBoot).
	FWCfg []Measured `json:"fw_cfg,omitempty"`
	// ACPI are the blobs of ACPI tables, in the order in which they are loaded.
	ACPI []Measured `json:"acpi"`
	// SMBIOS are the tables as filtered by the firmware. Empty: none is measured.
	SMBIOS []Measured `json:"smbios,omitempty"`
	// Boot are BootOrder and the entries that it names.
	Boot []Measured `json:"boot"`
	// Simulated: made by SimulatedPlatform.
	Simulated bool `json:"simulated,omitempty"`
}

func measured(what string, b []byte) Measured { return Measured{what, sha512.Sum384(b)} }

// DirectBoot gives the fw_cfg files that EDK2 measures when QEMU hands over a
// kernel and no device has a boot index: the switch of the boot menu, and the
// option ROM that would start the kernel without EFI.
func DirectBoot() []Measured {
	return []Measured{
		measured("fw_cfg BootMenu", []byte{0, 0}),
		measured("fw_cfg bootorder", []byte("/rom@genroms/linuxboot_dma.bin\x00")),
	}
}

// SimulatedPlatform is the platform of simulated hardware (simulation note): of
// the ACPI tables the one that names the vCPUs, no SMBIOS tables, no boot
// entry but the firmware's menu.
func SimulatedPlatform(f *Firmware, vcpus int) (*Platform, error) {
	t, err := madt(vcpus)
	if err != nil {
		return nil, err
	}
	return &Platform{ACPI: []Measured{measured(WhatVCPUs, t)}, Boot: bootMeasured(f), Simulated: true}, nil
}

func bootMeasured(f *Firmware) []Measured {
	var out []Measured
	for _, v := range f.Boot() {
		out = append(out, measured("variable "+v.Name, v.Value))
	}
	return out
}

// PlatformFromLog takes the platform of one reference boot: the same QEMU, the
// same devices and the same number of vCPUs. The log is as good as the boot
// was: of a TD whose quote has been verified against it.
func PlatformFromLog(l *eventlog.Log) (*Platform, error) {
	p := new(Platform)
	for i := range l.Events {
		e := &l.Events[i]
		if e.Register != 1 {
			continue
		}
		var to *[]Measured
		switch {
		case e.Type == refvalue.PlatformConfigFlags && bytes.HasPrefix(e.Data, []byte("QEMU FW CFG\x00")):
			to = &p.FWCfg
		case e.Type == refvalue.PlatformConfigFlags:
			to = &p.ACPI
		case e.Type == refvalue.EFIHandoffTables:
			to = &p.SMBIOS
		case e.Type == refvalue.EFIVariableBoot:
			to = &p.Boot
		default:
			continue
		}
		sum, ok := e.Sum(eventlog.SHA384)
		if !ok {
			return nil, fmt.Errorf("reference boot: entry %d has no SHA-384 digest", i)
		}
		*to = append(*to, Measured{e.Text(), Digest(sum)})
	}
	if len(p.ACPI) == 0 || len(p.Boot) == 0 {
		return nil, errors.New("reference boot: the log has no ACPI tables or no boot variables in RTMR 0")
	}
	return p, nil
}

// ACPIFromFWCfg gives the ACPI blobs as they are measured from the fw_cfg files
// of a QEMU: the loader's script, then each file that it allocates.
func ACPIFromFWCfg(files map[string][]byte) ([]Measured, error) {
	const script, entry, maxEntries = "etc/table-loader", 128, 1024
	b, ok := files[script]
	if !ok || len(b) == 0 || len(b)%entry != 0 || len(b) > entry*maxEntries {
		return nil, fmt.Errorf("fw_cfg: %s is missing or has %d bytes", script, len(b))
	}
	out := []Measured{measured(script, b)}
	for ; len(b) > 0; b = b[entry:] {
		const allocate = 1
		if binary.LittleEndian.Uint32(b) != allocate {
			continue
		}
		name, _, ok := strings.Cut(string(b[4:60]), "\x00")
		f, have := files[name]
		if !ok || !have {
			return nil, fmt.Errorf("fw_cfg: %s allocates %.56q, which was not given", script, name)
		}
		out = append(out, measured(name, f))
	}
	return out, nil
}

// madt is the ACPI table of interrupt controllers as QEMU's q35 gives it
// (hw/i386/acpi-common.c), before checksums are filled in: one entry for each
// vCPU, then the I/O APIC and its five overrides, then the NMI line.
func madt(vcpus int) ([]byte, error) {
	if vcpus < 1 || vcpus > launch.MaxVCPUs {
		return nil, fmt.Errorf("%d vCPUs are not between 1 and %d", vcpus, launch.MaxVCPUs)
	}
	le := binary.LittleEndian
	b := []byte("APIC\x00\x00\x00\x00\x03\x00BOCHS BXPC    \x01\x00\x00\x00BXPC\x01\x00\x00\x00")
	b = le.AppendUint32(b, 0xfee00000) // local APICs
	b = le.AppendUint32(b, 1)          // there are two 8259 as well
	for i := range vcpus {
		b = append(b, 0, 8, byte(i), byte(i), 1, 0, 0, 0)
	}
	b = append(b, 1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0) // I/O APIC at 0xfec00000
	b = append(b, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0)             // timer
	for _, irq := range []byte{5, 9, 10, 11} {
		b = append(b, 2, 10, 0, irq, irq, 0, 0, 0, 0xd, 0)
	}
	b = append(b, 4, 6, 0xff, 0, 0, 1)
	le.PutUint32(b[4:], uint32(len(b)))
	return b, nil
}
