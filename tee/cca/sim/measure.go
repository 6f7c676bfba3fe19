package sim

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
)

// The simulated realm (tee/cca/SPEC.md, "Simulator"): memory begins at 1 GiB; the
// kernel is there, or as far behind it as an arm64 Image asks; initrd and device
// tree follow.
const (
	page   = 4 << 10
	block  = 2 << 20
	ram    = 1 << 30
	gib    = 1 << 30
	initrd = 128 << 20
)

// chain is the measurement register: each step hashes a descriptor that holds
// the value before it (Arm DEN0137, section C1.1).
type chain [sha512.Size]byte

func (c *chain) step(kind byte, fields ...[]byte) {
	var d [256]byte
	d[0], d[9] = kind, 1 // type; length 0x100, little-endian
	copy(d[16:], c[:])
	rest := d[80:]
	for _, f := range fields {
		rest = rest[copy(rest, f):]
	}
	*c = sha512.Sum512(d[:])
}

func u64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func measure(in *Inputs) ([]byte, error) {
	memory := uint64(in.MemoryMiB) << 20
	if len(in.Kernel) == 0 || in.VCPUs < 1 || in.VCPUs > 64 || in.MemoryMiB < 1 || in.MemoryMiB > 1<<20 || memory%block != 0 {
		return nil, errors.New("no kernel, or vCPUs or memory out of range")
	}
	kernelAt, kernelSize := uint64(ram), uint64(len(in.Kernel))
	if k := in.Kernel; len(k) >= 64 && bytes.Equal(k[56:60], []byte{'A', 'R', 'M', 0x64}) {
		off := binary.LittleEndian.Uint64(k[8:])
		if off >= memory {
			return nil, errors.New("the kernel asks for a place outside the memory")
		}
		kernelAt += off
		kernelSize = max(kernelSize, binary.LittleEndian.Uint64(k[16:]))
	}
	if kernelSize > memory {
		return nil, errors.New("the kernel is larger than the memory")
	}
	initrdAt := roundUp(max(ram+min(memory/2, initrd), kernelAt+kernelSize), page)
	treeAt := roundUp(initrdAt+uint64(len(in.Initrd)), block)
	if treeAt+block > ram+memory {
		return nil, fmt.Errorf("kernel and initrd do not fit into %d MiB", in.MemoryMiB)
	}

	// Realm creation: 41 address bits, 6 breakpoints and watchpoints (less one),
	// no SVE, no PMU, SHA-512.
	var params [page]byte
	params[0x08], params[0x18], params[0x20], params[0x30] = 41, 5, 5, 1
	c := chain(sha512.Sum512(params[:]))
	// Memory: in blocks of 1 GiB, the rest in blocks of 2 MiB.
	for at, end := uint64(ram), ram+memory; at < end; {
		n := uint64(block)
		if end-at >= gib && at%gib == 0 {
			n = gib
		}
		c.step(2, u64(at), u64(at+n))
		at += n
	}
	c.content(kernelAt, in.Kernel)
	c.content(initrdAt, in.Initrd)
	c.content(treeAt, deviceTree(in, initrdAt, memory))
	// The vCPU that runs at reset: entry, and the tree's address in x0.
	var rec [page]byte
	rec[0] = 1
	binary.LittleEndian.PutUint64(rec[0x200:], kernelAt)
	binary.LittleEndian.PutUint64(rec[0x300:], treeAt)
	h := sha512.Sum512(rec[:])
	c.step(1, h[:])
	return c[:], nil
}

func (c *chain) content(at uint64, b []byte) {
	if skip := at % page; skip > 0 && len(b) > 0 { // an Image's offset may be odd
		b = append(make([]byte, skip), b...)
		at -= skip
	}
	for ; len(b) > 0; at += page {
		var p [page]byte
		b = b[copy(p[:], b):]
		h := sha512.Sum512(p[:])
		c.step(0, u64(at), u64(1), h[:])
	}
}

func roundUp(v, to uint64) uint64 { return (v + to - 1) / to * to }
