// Package measure computes, from what is launched, every event that a measured
// boot of a VM under OVMF and a TPM 2.0 records in PCRs 0 to 7, 9, 11 and 14:
// TCG PC Client Platform Firmware Profile for the firmware's part, the kernel's
// EFI stub (drivers/firmware/efi/libstub) for PCR 9. Nothing is booted.
//
// Invariants: the list is complete and in the order of extension, so that a
// verifier can both demand a reason for each event and replay the registers;
// a firmware whose constants are not known is an error, never a guess. PCR 8
// belongs to the guest, which extends it with the initdata digest.
//
// Trust zone: owner (reference values); linked by no guest.
package measure

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/internal/uefi"
)

// Calculator computes the events of one set of files for any VM size.
// It is not safe for concurrent use.
type Calculator struct {
	fw         *Firmware
	kernel     *kernelImage
	initrd     refvalue.Digest
	initrdSize int64
	cmdline    string
}

// NewCalculator takes the kernel (bzImage), initrd and command line that fw
// starts. It keeps kernel.
func NewCalculator(fw *Firmware, kernel, initrd []byte, cmdline string) (*Calculator, error) {
	k, err := parseKernel(kernel)
	if err != nil {
		return nil, fmt.Errorf("computing measurements: %w", err)
	}
	for _, r := range cmdline {
		if r == 0 || r > 0x7e {
			return nil, errors.New("computing measurements: the command line is not plain ASCII")
		}
	}
	return &Calculator{fw: fw, kernel: k, initrd: sha256.Sum256(initrd), initrdSize: int64(len(initrd)), cmdline: cmdline}, nil
}

// Compute reads the files of spec and gives the events of exactly that launch.
func Compute(spec *launch.Spec) ([]refvalue.Event, error) {
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("computing measurements: %w", err)
	}
	if spec.Firmware.Path == "" {
		return nil, errors.New("computing measurements: a launch without firmware measures nothing")
	}
	var b [4][]byte
	for i, f := range []launch.File{spec.Firmware, spec.VarsFile, spec.Kernel, spec.Initrd} {
		var err error
		if b[i], err = f.Read(launch.MaxFile); err != nil {
			return nil, fmt.Errorf("computing measurements: %w", err)
		}
	}
	fw, err := OpenFirmware(b[0], b[1])
	if err != nil {
		return nil, fmt.Errorf("computing measurements: %w", err)
	}
	c, err := NewCalculator(fw, b[2], b[3], spec.Cmdline)
	if err != nil {
		return nil, err
	}
	return c.Events(spec.MemoryMiB, spec.VCPUs)
}

// Events gives the events of a VM of one size, in the order of the event log.
func (c *Calculator) Events(memoryMiB, vcpus int) ([]refvalue.Event, error) {
	return c.events(memoryMiB, vcpus, vcpus)
}

// Set gives the reference values of one memory size for every number of vCPUs.
func (c *Calculator) Set(tee launch.TEE, image string, memoryMiB int, source string) (*refvalue.Set, error) {
	ev, err := c.events(memoryMiB, 1, launch.MaxVCPUs)
	if err != nil {
		return nil, err
	}
	return &refvalue.Set{TEE: string(tee), Image: image, MemoryMiB: memoryMiB, Events: ev, Source: source}, nil
}

func (c *Calculator) events(memoryMiB, minCPUs, maxCPUs int) ([]refvalue.Event, error) {
	kernel, err := c.kernel.digest(memoryMiB, c.initrdSize)
	if err != nil {
		return nil, fmt.Errorf("computing measurements: %w", err)
	}
	var l log
	l.data(0, refvalue.SCRTMVersion, uefi.UTF16Z(c.fw.profile.crtmVersion), "firmware version (S-CRTM)")
	for n := minCPUs; n <= maxCPUs; n++ {
		d, err := c.fw.peiDigest(memoryMiB, n)
		if err != nil {
			return nil, fmt.Errorf("computing measurements: %w", err)
		}
		e := refvalue.Event{PCR: 0, Type: refvalue.EFIPlatformFirmwareBlob, Digest: d, What: "firmware: PEI volume"}
		if minCPUs != maxCPUs {
			e.VCPUs = n
		}
		l = append(l, e)
	}
	l.add(0, refvalue.EFIPlatformFirmwareBlob, c.fw.dxe, "firmware: DXE volume")

	l.secureBoot()
	l.separator(7)

	l.add(4, refvalue.EFIBootServicesApp, kernel, "kernel (Authenticode, as QEMU hands it over)")
	l.data(1, refvalue.EFIVariableBoot, []byte{0, 0}, "variable BootOrder")
	l.data(1, refvalue.EFIVariableBoot, c.fw.bootApp, "variable Boot0000 (UiApp)")
	l.text(4, "Calling EFI Application from Boot Option")
	for pcr := range 7 {
		l.separator(pcr)
	}

	// OVMF's loader of QEMU's kernels adds the initrd's name to the line.
	l.data(9, refvalue.EventTag, uefi.UTF16Z(c.cmdline+" initrd=initrd"), "kernel command line")
	l.add(9, refvalue.EventTag, c.initrd, refvalue.WhatInitrd)
	l.text(5, "Exit Boot Services Invocation")
	l.text(5, "Exit Boot Services Returned with Success")
	return l, nil
}

// log is a list of events under construction.
type log []refvalue.Event

func (l *log) add(pcr int, t refvalue.EventType, d refvalue.Digest, what string) {
	*l = append(*l, refvalue.Event{PCR: pcr, Type: t, Digest: d, What: what})
}

// data adds an event whose digest is that of b.
func (l *log) data(pcr int, t refvalue.EventType, b []byte, what string) {
	l.add(pcr, t, sha256.Sum256(b), what)
}

func (l *log) text(pcr int, s string) { l.data(pcr, refvalue.EFIAction, []byte(s), s) }

func (l *log) separator(pcr int) {
	l.data(pcr, refvalue.Separator, []byte{0, 0, 0, 0}, "separator")
}

// secureBoot adds the variables of an empty store: secure boot is off and no
// key is enrolled.
func (l *log) secureBoot() {
	for _, v := range []struct {
		vendor uefi.GUID
		name   string
		value  []byte
	}{
		{uefi.GlobalVariable, "SecureBoot", []byte{0}},
		{uefi.GlobalVariable, "PK", nil},
		{uefi.GlobalVariable, "KEK", nil},
		{uefi.SecurityDatabase, "db", nil},
		{uefi.SecurityDatabase, "dbx", nil},
	} {
		l.data(7, refvalue.EFIVariableDriverConfig, uefi.VariableData(v.vendor, v.name, v.value), "variable "+v.name)
	}
}
