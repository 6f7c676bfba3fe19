package container

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// run executes the instructions of which deviceProgram is made, as the kernel's bpf(2)
// documentation says, on a context of three numbers of 32 bits.
func run(t *testing.T, p []byte, context [3]uint32) bool {
	t.Helper()
	var r [11]uint64
	for pc := 0; pc*8+8 <= len(p); pc++ {
		in := p[pc*8:]
		dst, src := in[1]&15, in[1]>>4
		off, imm := int16(binary.LittleEndian.Uint16(in[2:])), uint64(int64(int32(binary.LittleEndian.Uint32(in[4:]))))
		switch in[0] {
		case 0x61:
			r[dst] = uint64(context[off/4])
		case 0xb7:
			r[dst] = imm
		case 0xbf:
			r[dst] = r[src]
		case 0x57:
			r[dst] &= imm
		case 0x77:
			r[dst] >>= imm
		case 0x15:
			if r[dst] == imm {
				pc += int(off)
			}
		case 0x55:
			if r[dst] != imm {
				pc += int(off)
			}
		case 0x95:
			return r[0] == 1
		default:
			t.Fatalf("instruction %#x", in[0])
		}
	}
	t.Fatal("the program has no end")
	return false
}

func TestDeviceProgram(t *testing.T) {
	const (
		mknod, read, write = 1, 2, 4
		block, character   = 1, 2
	)
	blocks := []Device{{Number: unix.Mkdev(253, 3)}, {Number: unix.Mkdev(253, 5), ReadOnly: true}, {Number: unix.Mkdev(8, 0x112)}}
	for _, c := range []struct {
		access, kind, major, minor uint32
		none, with                 bool // without and with the block devices
	}{
		{read | write, character, 1, 3, true, true}, {read, character, 1, 9, true, true}, {read, character, 136, 77, true, true},
		{read, character, 1, 1, false, false}, {read, character, 10, 224, false, false}, // memory, TPM
		{read, character, 253, 3, false, false}, {read | write, character, 253, 3, false, false},
		{read, block, 253, 3, false, true}, {write, block, 253, 3, false, true}, {read | write, block, 253, 3, false, true},
		{read, block, 253, 5, false, true}, {write, block, 253, 5, false, false}, {read | write, block, 253, 5, false, false}, {mknod | write, block, 253, 5, false, false},
		{read, block, 8, 0x112, false, true}, {write, block, 8, 0x112, false, true},
		{read, block, 253, 4, false, false}, {read, block, 254, 3, false, false}, {read, block, 8, 3, false, false},
		{read, block, 1, 3, false, false}, {read | write, block, 5, 0, false, false},
		{mknod, block, 254, 0, true, true}, {mknod, character, 10, 224, true, true}, // a node alone is none to be opened
	} {
		context := [3]uint32{c.access<<16 | c.kind, c.major, c.minor}
		if none, with := run(t, deviceProgram(nil), context), run(t, deviceProgram(blocks), context); none != c.none || with != c.with {
			t.Errorf("%+v: allowed without block devices: %t, with them: %t", c, none, with)
		}
	}
}
