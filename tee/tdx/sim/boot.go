package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/tdx/measure"
)

// GUIDs in their byte order on disk: of OvmfPkg, and of the file system in which
// EDK2 shows what QEMU hands over.
var (
	guidOVMF   = []byte{0xaf, 0x96, 0xbb, 0x93, 0xf2, 0xb9, 0xb8, 0x4e, 0x94, 0x62, 0xe0, 0xba, 0x74, 0x56, 0x42, 0x36}
	guidKernel = []byte{0x72, 0xf7, 0x28, 0x14, 0x4a, 0xb6, 0x1e, 0x44, 0xb8, 0xc3, 0x9e, 0xbd, 0xd7, 0xf8, 0x93, 0xc7}
)

// boot goes the way of a boot and measures on it.
type boot struct {
	m   *Machine
	log []byte
}

// event measures what and logs it with the text or structure that explains it.
func (b *boot) event(register int, t refvalue.EventType, what, explain []byte) error {
	return b.digest(register, t, eventlog.SHA384.Hash(what), explain)
}

func (b *boot) digest(register int, t refvalue.EventType, sum, explain []byte) error {
	if err := b.m.Extend(register, sum); err != nil {
		return err
	}
	// The log calls RTMR 0 register 1.
	e := eventlog.Event{Register: uint32(register) + 1, Type: t, Data: explain, Digests: []eventlog.Digest{{Algorithm: eventlog.SHA384, Sum: sum}}}
	b.log = e.Append(b.log)
	return nil
}

func (b *boot) run(in *Inputs) error {
	for _, step := range []func(*Inputs) error{b.start, b.settings, b.tables, b.kernel, b.readyToBoot, b.stub, b.exit} {
		if err := step(in); err != nil {
			return err
		}
	}
	return nil
}

// start is the firmware's first phase: the hand-off blocks, its variables, the
// fw_cfg files that it will believe.
func (b *boot) start(in *Inputs) error {
	hob, at, err := handOff(in.MemoryMiB, in.Firmware.Sections())
	if err != nil {
		return err
	}
	table := append([]byte("\x09TdxTable\x00"), 1, 0, 0, 0, 0, 0, 0, 0)
	table = binary.LittleEndian.AppendUint64(append(table, guidOVMF...), at)
	if err := b.event(0, refvalue.EFIHandoffTables2, hob, table); err != nil {
		return err
	}
	cfv := in.Firmware.CFV()
	blob := append([]byte{41}, "Fv(XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX)\x00"...)
	for _, s := range in.Firmware.Sections() {
		if s.Type == measure.SectionCFV {
			blob = binary.LittleEndian.AppendUint64(blob, s.GPA)
		}
	}
	blob = binary.LittleEndian.AppendUint64(blob, uint64(len(cfv)))
	if err := b.event(0, refvalue.EFIPlatformFirmwareBlob2, cfv, blob); err != nil {
		return err
	}
	// -kernel makes QEMU offer an option ROM that boots it, as the first choice.
	for _, f := range []struct{ name, content string }{{"BootMenu", "\x00\x00"}, {"bootorder", "/rom@genroms/linuxboot_dma.bin\x00"}} {
		explain := append([]byte("QEMU FW CFG\x00"), make([]byte, 56)...)
		copy(explain[12:], f.name)
		if err := b.event(0, refvalue.PlatformConfigFlags, []byte(f.content), explain); err != nil {
			return err
		}
	}
	return nil
}

func (b *boot) settings(in *Inputs) error {
	vs, _ := in.Firmware.SecureBoot()
	for i := range vs {
		d := vs[i].Data()
		if err := b.event(0, refvalue.EFIVariableDriverConfig, d, d); err != nil {
			return err
		}
	}
	return b.separator(0)
}

func (b *boot) separator(register int) error {
	return b.event(register, refvalue.Separator, make([]byte, 4), make([]byte, 4))
}

func (b *boot) tables(in *Inputs) error {
	t, err := apicTable(in.VCPUs)
	if err != nil {
		return err
	}
	return b.event(0, refvalue.PlatformConfigFlags, t, []byte("ACPI DATA"))
}

// kernel is the image's load: QEMU offers the unchanged file.
func (b *boot) kernel(in *Inputs) error {
	sum, err := imageDigest(in.Kernel)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	path := append([]byte{4, 3, 20, 0}, guidKernel...)
	path = append(path, 4, 4, 18, 0)
	path = append(append(path, wide("kernel")...), 0x7f, 0xff, 4, 0)
	le := binary.LittleEndian
	load := le.AppendUint64(nil, 0) // where in memory: unknown here
	load = le.AppendUint64(load, uint64(len(in.Kernel)))
	load = le.AppendUint64(load, 0)
	load = le.AppendUint64(load, uint64(len(path)))
	return b.digest(1, refvalue.EFIBootServicesApp, sum, append(load, path...))
}

func (b *boot) readyToBoot(in *Inputs) error {
	for _, v := range in.Firmware.Boot() {
		if err := b.event(0, refvalue.EFIVariableBoot, v.Value, v.Data()); err != nil {
			return err
		}
	}
	if err := b.action("Calling EFI Application from Boot Option"); err != nil {
		return err
	}
	return b.separator(1)
}

func (b *boot) action(s string) error {
	return b.event(1, refvalue.EFIAction, []byte(s), []byte(s))
}

// stub is what the kernel measures before it takes over: its options, with the
// initrd's name in front where there is one, and the initrd.
func (b *boot) stub(in *Inputs) error {
	if in.Cmdline == "" || bytes.ContainsFunc([]byte(in.Cmdline), func(r rune) bool { return r == 0 || r > 0x7e }) {
		return errors.New("command line: empty or not plain ASCII")
	}
	name := ""
	if len(in.Initrd) > 0 {
		name = "initrd=initrd "
	}
	if err := b.event(2, refvalue.EventTag, wide(name+in.Cmdline), tag(0x8f3b22ed, "LOADED_IMAGE::LoadOptions")); err != nil {
		return err
	}
	if len(in.Initrd) == 0 {
		return nil
	}
	return b.event(2, refvalue.EventTag, in.Initrd, tag(0x8f3b22ec, refvalue.WhatInitrd))
}

func tag(id uint32, s string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, id)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s)+1))
	return append(append(b, s...), 0)
}

func (b *boot) exit(*Inputs) error {
	if err := b.action("Exit Boot Services Invocation"); err != nil {
		return err
	}
	return b.action("Exit Boot Services Returned with Success")
}

// wide is s in UTF-16 with its terminator.
func wide(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s + "\x00")) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}
