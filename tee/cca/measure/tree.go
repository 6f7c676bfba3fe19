package measure

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// tree writes a flattened device tree (Devicetree Specification 0.4, section 5).
type tree struct {
	structure, strings bytes.Buffer
	names              map[string]uint32
}

func (t *tree) cell(v uint32) { _ = binary.Write(&t.structure, binary.BigEndian, v) }

func (t *tree) pad() {
	for t.structure.Len()%4 != 0 {
		t.structure.WriteByte(0)
	}
}

func (t *tree) begin(name string) {
	t.cell(1)
	t.structure.WriteString(name + "\x00")
	t.pad()
}

func (t *tree) end() { t.cell(2) }

func (t *tree) prop(name string, v []byte) {
	off, ok := t.names[name]
	if !ok {
		off = uint32(t.strings.Len())
		if t.names == nil {
			t.names = map[string]uint32{}
		}
		t.names[name] = off
		t.strings.WriteString(name + "\x00")
	}
	t.cell(3)
	t.cell(uint32(len(v)))
	t.cell(off)
	t.structure.Write(v)
	t.pad()
}

func (t *tree) text(name string, v ...string) {
	var b []byte
	for _, s := range v {
		b = append(append(b, s...), 0)
	}
	t.prop(name, b)
}

func (t *tree) u32(name string, v ...uint32) {
	var b []byte
	for _, x := range v {
		b = binary.BigEndian.AppendUint32(b, x)
	}
	t.prop(name, b)
}

func (t *tree) u64(name string, v ...uint64) {
	var b []byte
	for _, x := range v {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	t.prop(name, b)
}

// blob gives version 17 of the format: header, no reservations, tree, names.
func (t *tree) blob() []byte {
	t.cell(9)
	const header, reservations = 40, 16
	structure, names := uint32(t.structure.Len()), uint32(t.strings.Len())
	var out []byte
	for _, v := range []uint32{
		0xd00dfeed, header + reservations + structure + names, header + reservations,
		header + reservations + structure, header, 17, 16, 0, names, structure,
	} {
		out = binary.BigEndian.AppendUint32(out, v)
	}
	out = append(out, make([]byte, reservations)...)
	return append(append(out, t.structure.Bytes()...), t.strings.Bytes()...)
}

// simulatedTree is the device tree of a simulated realm (SPEC.md): what of the
// launch is not in memory otherwise.
func simulatedTree(l *layout, cmdline string, vcpus int) []byte {
	var t tree
	t.begin("")
	t.text("compatible", "coffer,cca-sim")
	t.u32("#address-cells", 2)
	t.u32("#size-cells", 2)
	t.begin("chosen")
	t.text("bootargs", cmdline)
	if len(l.initrd) > 0 {
		t.u64("linux,initrd-start", l.initrdAt)
		t.u64("linux,initrd-end", l.initrdAt+uint64(len(l.initrd)))
	}
	t.end()
	t.begin(fmt.Sprintf("memory@%x", memoryBase))
	t.text("device_type", "memory")
	t.u64("reg", memoryBase, l.memory)
	t.end()
	t.begin("cpus")
	t.u32("#address-cells", 1)
	t.u32("#size-cells", 0)
	for i := range vcpus {
		t.begin(fmt.Sprintf("cpu@%x", i))
		t.text("device_type", "cpu")
		t.u32("reg", uint32(i))
		t.end()
	}
	t.end()
	t.end()
	return t.blob()
}
