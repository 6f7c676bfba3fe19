package seccomp

import "fmt"

// Instruction is the kernel's struct sock_filter.
type Instruction struct {
	Code   uint16
	Jt, Jf uint8
	K      uint32
}

// Classic BPF operation codes that filters use.
const (
	ldAbs = 0x20 // A = 32 bits of seccomp_data at K
	andK  = 0x54 // A &= K
	ja    = 0x05
	jeqK  = 0x15
	jgtK  = 0x25
	jgeK  = 0x35
	retK  = 0x06
)

// Offsets in struct seccomp_data.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

const (
	auditArchX8664 = 0xc000003e
	x32Bit         = 0x40000000
)

type assembler struct{ code []Instruction }

func (a *assembler) emit(code uint16, jt, jf uint8, k uint32) {
	a.code = append(a.code, Instruction{code, jt, jf, k})
}

func (a *assembler) ret(act Action) { a.emit(retK, 0, 0, uint32(act)) }

// checkArchitecture leaves the call's number in A, or ends for a foreign ABI:
// with the default action, but never with one that lets the call through.
func (a *assembler) checkArchitecture(def Action) {
	if permissive(def) {
		def = Errno(1)
	}
	a.emit(ldAbs, 0, 0, offArch)
	a.emit(jeqK, 1, 0, auditArchX8664)
	a.ret(def)
	a.emit(ldAbs, 0, 0, offNr)
	a.emit(jgeK, 0, 1, x32Bit)
	a.ret(def)
}

// conditions gives a call the action where all conditions hold, and goes on behind
// them where one does not. A is lost.
func conditions(args []Arg, act Action) ([]Instruction, error) {
	var body assembler
	type fix struct {
		at int
		jt bool // which branch misses
	}
	var misses []fix
	miss := func(jt bool) { misses = append(misses, fix{at: len(body.code) - 1, jt: jt}) }
	for _, c := range args {
		if c.Index > 5 {
			return nil, fmt.Errorf("argument %d does not exist", c.Index)
		}
		lo, hi := uint32(offArgs+8*c.Index), uint32(offArgs+8*c.Index+4) // little endian
		v, w := c.Value, c.ValueTwo
		switch c.Op {
		case Equal, MaskedEqual:
			mask := ^uint64(0)
			if c.Op == MaskedEqual {
				mask, v = c.Value, w
			}
			body.emit(ldAbs, 0, 0, hi)
			body.emit(andK, 0, 0, uint32(mask>>32))
			body.emit(jeqK, 0, 0, uint32(v>>32))
			miss(false)
			body.emit(ldAbs, 0, 0, lo)
			body.emit(andK, 0, 0, uint32(mask))
			body.emit(jeqK, 0, 0, uint32(v))
			miss(false)
		case NotEqual:
			body.emit(ldAbs, 0, 0, hi)
			body.emit(jeqK, 0, 2, uint32(v>>32)) // high halves differ: holds
			body.emit(ldAbs, 0, 0, lo)
			body.emit(jeqK, 0, 0, uint32(v))
			miss(true)
		case Greater, GreaterOrEqual:
			low := uint16(jgtK)
			if c.Op == GreaterOrEqual {
				low = jgeK
			}
			body.emit(ldAbs, 0, 0, hi)
			body.emit(jgtK, 3, 0, uint32(v>>32)) // high half greater: holds
			body.emit(jeqK, 0, 0, uint32(v>>32))
			miss(false)
			body.emit(ldAbs, 0, 0, lo)
			body.emit(low, 0, 0, uint32(v))
			miss(false)
		case Less, LessOrEqual:
			low := uint16(jgeK)
			if c.Op == LessOrEqual {
				low = jgtK
			}
			body.emit(ldAbs, 0, 0, hi)
			body.emit(jgtK, 0, 0, uint32(v>>32))
			miss(true)
			body.emit(jeqK, 0, 2, uint32(v>>32)) // high half less: holds
			body.emit(ldAbs, 0, 0, lo)
			body.emit(low, 0, 0, uint32(v))
			miss(true)
		default:
			return nil, fmt.Errorf("unknown comparison %d", c.Op)
		}
	}
	body.ret(act)
	for _, f := range misses {
		d := len(body.code) - f.at - 1
		if d > 255 {
			return nil, fmt.Errorf("conditions too long")
		}
		if f.jt {
			body.code[f.at].Jt = uint8(d)
		} else {
			body.code[f.at].Jf = uint8(d)
		}
	}
	return body.code, nil
}
