package measure

import (
	"crypto/sha512"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/internal/uefi"
)

// Names of the events that follow from what is launched, as a denial shows
// them.
const (
	WhatMemory  = "memory size (hand-off blocks)"
	WhatVCPUs   = "number of vCPUs (ACPI table APIC)"
	WhatKernel  = "kernel (Authenticode)"
	WhatCmdline = "kernel command line"
	WhatInitrd  = refvalue.WhatInitrd
)

// Event is one extend of a run-time register.
type Event struct {
	Register int                `json:"register"` // RTMR
	Type     refvalue.EventType `json:"type"`
	Digest   Digest             `json:"digest"`
	What     string             `json:"what"`
}

// inputs are the contents of what is launched.
type inputs struct {
	kernel, initrd []byte
	cmdline        string
	memoryMiB      int
}

// log is a list of events under construction.
type log []Event

func (l *log) add(register int, t refvalue.EventType, d Digest, what string) {
	*l = append(*l, Event{register, t, d, what})
}

// data adds an event whose digest is that of b.
func (l *log) data(register int, t refvalue.EventType, b []byte, what string) {
	l.add(register, t, sha512.Sum384(b), what)
}

func (l *log) text(register int, s string) { l.data(register, refvalue.EFIAction, []byte(s), s) }

func (l *log) all(register int, t refvalue.EventType, ms []Measured) {
	for _, m := range ms {
		l.add(register, t, m.Digest, m.What)
	}
}

// configuration is RTMR 0: what the VMM says of the machine, and the firmware's
// settings.
func (l *log) configuration(f *Firmware, in *inputs, p *Platform) error {
	hob, err := tdHOB(in.memoryMiB, f.sections)
	if err != nil {
		return err
	}
	l.data(0, refvalue.EFIHandoffTables2, hob, WhatMemory)
	l.data(0, refvalue.EFIPlatformFirmwareBlob2, f.cfv, "firmware's volume of variables")
	fw := p.FWCfg
	if fw == nil {
		fw = DirectBoot()
	}
	l.all(0, refvalue.PlatformConfigFlags, fw)
	for i := range f.secure {
		l.data(0, refvalue.EFIVariableDriverConfig, f.secure[i].Data(), "variable "+f.secure[i].Name)
	}
	l.data(0, refvalue.Separator, make([]byte, 4), "separator")
	l.all(0, refvalue.PlatformConfigFlags, p.ACPI)
	l.all(0, refvalue.EFIHandoffTables, p.SMBIOS)
	l.all(0, refvalue.EFIVariableBoot, p.Boot)
	return nil
}

// system is RTMR 1 and 2: the kernel as the firmware loads it, then what the
// kernel's EFI stub measures (drivers/firmware/efi/libstub).
func (l *log) system(in *inputs) error {
	if in.cmdline == "" {
		return errors.New("no kernel command line")
	}
	for _, r := range in.cmdline {
		if r == 0 || r > 0x7e {
			return errors.New("the command line is not plain ASCII")
		}
	}
	if len(in.kernel) < 0x206 || string(in.kernel[0x202:0x206]) != "HdrS" {
		return errors.New("kernel: no Linux setup header")
	}
	kernel, err := kernelDigest(in.kernel)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	l.add(1, refvalue.EFIBootServicesApp, kernel, WhatKernel)
	l.text(1, "Calling EFI Application from Boot Option")
	l.data(1, refvalue.Separator, make([]byte, 4), "separator")
	options := in.cmdline
	if len(in.initrd) > 0 {
		options = "initrd=initrd " + options
	}
	l.data(2, refvalue.EventTag, uefi.UTF16Z(options), WhatCmdline)
	if len(in.initrd) > 0 {
		l.data(2, refvalue.EventTag, in.initrd, WhatInitrd)
	}
	l.text(1, "Exit Boot Services Invocation")
	l.text(1, "Exit Boot Services Returned with Success")
	return nil
}

// kernelDigest is the SHA-384 digest of a PE image as firmware measures it.
func kernelDigest(b []byte) (Digest, error) {
	pe, err := uefi.ParsePE(b)
	if err != nil {
		return Digest{}, err
	}
	h := sha512.New384()
	if err := pe.Hash(h, b); err != nil {
		return Digest{}, err
	}
	return Digest(h.Sum(nil)), nil
}

// replay gives what a register holds after its events.
func (l log) replay(register int) Digest {
	var d Digest
	for _, e := range l {
		if e.Register == register {
			d = d.extend(e.Digest)
		}
	}
	return d
}
