package firmware

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// BootEIP is where the first processor starts.
const BootEIP = 0xfffffff0

// VMM says who makes the save areas: each leaves other values in registers that
// the firmware does not care about.
type VMM string

// Makers of save areas.
const (
	QEMU VMM = "qemu"
	EC2  VMM = "ec2"
	GCE  VMM = "gce"
)

// ParseVMM reads a name; "" is QEMU.
func ParseVMM(s string) (VMM, error) {
	switch v := VMM(s); v {
	case "":
		return QEMU, nil
	case QEMU, EC2, GCE:
		return v, nil
	}
	return "", fmt.Errorf("VMM %q is none of qemu, ec2, gce", s)
}

// registers that differ between the makers.
type registers struct {
	cs, data, ss, tr uint16 // attributes of segments
	rdx              uint64
	mxcsr            uint32
	fcw              uint16
	pat              uint64
}

func (v VMM) registers(eip, signature uint32) registers {
	r := registers{cs: 0x9b, data: 0x93, ss: 0x93, tr: 0x8b, rdx: uint64(signature), mxcsr: 0x1f80, fcw: 0x37f, pat: 0x0007040600070406}
	switch v {
	case EC2:
		r.ss, r.tr, r.rdx, r.mxcsr, r.fcw = 0x92, 0x83, 0x600, 0, 0
		if eip == BootEIP {
			r.cs = 0x9a
		}
	case GCE:
		r.rdx, r.pat, r.mxcsr, r.fcw = 0x600, 0x70106, 0, 0
	}
	return r
}

// VMSA gives the page of a vCPU's save area at launch (APM volume 2, appendix B,
// table of the SEV-ES save area): eip is where it starts, signature the CPUID
// signature of its model, features SEV_FEATURES.
func VMSA(v VMM, eip, signature uint32, features uint64) []byte {
	p := make([]byte, PageSize)
	le := binary.LittleEndian
	segment := func(off int, selector, attributes uint16, limit uint32, base uint64) {
		le.PutUint16(p[off:], selector)
		le.PutUint16(p[off+2:], attributes)
		le.PutUint32(p[off+4:], limit)
		le.PutUint64(p[off+8:], base)
	}
	r := v.registers(eip, signature)
	segment(0x00, 0, r.data, 0xffff, 0)                         // ES
	segment(0x10, 0xf000, r.cs, 0xffff, uint64(eip&0xffff0000)) // CS
	segment(0x20, 0, r.ss, 0xffff, 0)                           // SS
	for off := 0x30; off <= 0x50; off += 0x10 {                 // DS, FS, GS
		segment(off, 0, r.data, 0xffff, 0)
	}
	segment(0x60, 0, 0, 0xffff, 0)    // GDTR
	segment(0x70, 0, 0x82, 0xffff, 0) // LDTR
	segment(0x80, 0, 0, 0xffff, 0)    // IDTR
	segment(0x90, 0, r.tr, 0xffff, 0) // TR
	for _, x := range []struct {
		off int
		v   uint64
	}{
		{0x0D0, 0x1000},                                 // EFER: SVME
		{0x148, 0x40},                                   // CR4: MCE
		{0x158, 0x10},                                   // CR0: ET
		{0x160, 0x400}, {0x168, 0xffff0ff0}, {0x170, 2}, // DR7, DR6, RFLAGS
		{0x178, uint64(eip & 0xffff)}, {0x268, r.pat}, {0x310, r.rdx}, // RIP, G_PAT, RDX
		{0x3B0, features}, {0x3E8, 1}, // SEV_FEATURES, XCR0
	} {
		le.PutUint64(p[x.off:], x.v)
	}
	le.PutUint32(p[0x408:], r.mxcsr)
	le.PutUint16(p[0x410:], r.fcw)
	return p
}

// models lists the CPUID signatures (family, model, stepping) of QEMU's models.
var models = map[string][3]uint32{
	"EPYC": {23, 1, 2}, "EPYC-Rome": {23, 49, 0}, "EPYC-Milan": {25, 1, 1}, "EPYC-Genoa": {25, 17, 0}, "EPYC-Turin": {26, 0, 0},
}

// Models lists a QEMU CPU model of each signature that is known.
func Models() []string { return slices.Sorted(maps.Keys(models)) }

// Signature gives the CPUID signature of a QEMU CPU model, such as "EPYC-v4".
func Signature(model string) (uint32, error) {
	base := model
	if i := strings.LastIndex(model, "-v"); i > 0 && strings.Trim(model[i+2:], "0123456789") == "" && i+2 < len(model) {
		base = model[:i]
	}
	m, ok := models[base]
	if !ok && model == "EPYC-IBPB" {
		m, ok = models["EPYC"]
	}
	if !ok {
		return 0, fmt.Errorf("CPU model %q is not known to have SEV", model)
	}
	return CPUIDSignature(m[0], m[1], m[2]), nil
}

// CPUIDSignature gives EAX of CPUID function 1.
func CPUIDSignature(family, model, stepping uint32) uint32 {
	low, high := family, uint32(0)
	if family > 15 {
		low, high = 15, family-15
	}
	return high<<20 | model>>4<<16 | low<<8 | model&15<<4 | stepping&15
}
