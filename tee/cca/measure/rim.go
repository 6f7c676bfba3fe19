// Package measure computes the realm initial measurement (RIM) of an Arm CCA
// realm: the operations of the realm management monitor (Arm DEN0137, version
// 1.0-rel0, sections B4.3.9.4, B4.3.1.4, B4.3.12.4, B4.3.18.4), in the order in
// which QEMU's machine "virt" makes them. Nothing is started.
//
// Invariants: what is not known (the device tree, the host's capabilities) is an
// argument, never a guess.
//
// Trust zone: owner (reference values); linked by no guest.
package measure

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// Granule is the size of a page that the monitor measures.
const Granule = 4096

// Hash is RmiHashAlgorithm.
type Hash byte

// Hashes.
const (
	SHA256 Hash = 0
	SHA512 Hash = 1
)

// Flags of a realm (RmiRealmFlags).
const (
	FlagLPA2 uint64 = 1 << 0
	FlagSVE  uint64 = 1 << 1
	FlagPMU  uint64 = 1 << 2
)

// Params are the realm's parameters that are measured. The personalization value
// is not among them.
type Params struct {
	Flags uint64
	// IPABits is the size of the guest's address space (s2sz).
	IPABits int
	// SVEVL is the SVE vector length as RmiRealmParams has it: quadwords less one.
	SVEVL int
	// Breakpoints and Watchpoints are counts, at least 2 each.
	Breakpoints, Watchpoints int
	PMUCounters              int
	Hash                     Hash
}

// RIM is a realm initial measurement in the making.
type RIM struct {
	hash   Hash
	value  [64]byte // a shorter digest is followed by zeros
	blocks []uint64 // sizes that the translation tables can map, largest first
}

// New begins with RMI_REALM_CREATE.
func New(p Params) (*RIM, error) {
	switch {
	case p.Hash != SHA256 && p.Hash != SHA512:
		return nil, fmt.Errorf("realm measurement: unknown hash algorithm %d", p.Hash)
	case p.IPABits < 32 || p.IPABits > 52:
		return nil, fmt.Errorf("realm measurement: %d address bits, between 32 and 52", p.IPABits)
	case p.Breakpoints < 2 || p.Breakpoints > 64 || p.Watchpoints < 2 || p.Watchpoints > 64:
		return nil, errors.New("realm measurement: breakpoints and watchpoints are between 2 and 64 each")
	case p.PMUCounters < 0 || p.PMUCounters > 31 || p.SVEVL < 0 || p.SVEVL > 15:
		return nil, errors.New("realm measurement: PMU counters or SVE vector length out of range")
	}
	var b [Granule]byte
	binary.LittleEndian.PutUint64(b[0x00:], p.Flags)
	b[0x08] = byte(p.IPABits)
	b[0x10] = byte(p.SVEVL)
	b[0x18] = byte(p.Breakpoints - 1)
	b[0x20] = byte(p.Watchpoints - 1)
	b[0x28] = byte(p.PMUCounters)
	b[0x30] = byte(p.Hash)
	r := &RIM{hash: p.Hash, blocks: blockSizes(p.IPABits)}
	r.value = r.sum(b[:])
	return r, nil
}

// Value gives the measurement, as long as its hash.
func (r *RIM) Value() []byte {
	if r.hash == SHA256 {
		return append([]byte(nil), r.value[:32]...)
	}
	return append([]byte(nil), r.value[:]...)
}

func (r *RIM) sum(b []byte) (out [64]byte) {
	if r.hash == SHA256 {
		h := sha256.Sum256(b)
		copy(out[:], h[:])
		return out
	}
	return sha512.Sum512(b)
}

// descriptor is an RmmMeasurementDescriptor: type, length, the value so far.
func (r *RIM) descriptor(kind byte) *[0x100]byte {
	d := new([0x100]byte)
	d[0] = kind
	binary.LittleEndian.PutUint64(d[0x08:], uint64(len(d)))
	copy(d[0x10:], r.value[:])
	return d
}

// RIPAS measures memory from base to top becoming RAM (RMI_RTT_INIT_RIPAS): one
// step for each translation table entry.
func (r *RIM) RIPAS(base, top uint64) error {
	if top <= base || (base|top)%Granule != 0 || top > 1<<52 {
		return fmt.Errorf("realm measurement: memory from %#x to %#x", base, top)
	}
	for base < top {
		end := base + r.block(base, top)
		d := r.descriptor(2)
		binary.LittleEndian.PutUint64(d[0x50:], base)
		binary.LittleEndian.PutUint64(d[0x58:], end)
		r.value = r.sum(d[:])
		base = end
	}
	return nil
}

// block is the largest entry that begins at base and does not reach over top.
func (r *RIM) block(base, top uint64) uint64 {
	for _, b := range r.blocks {
		if base%b == 0 && top-base >= b {
			return b
		}
	}
	return Granule
}

// blockSizes gives the sizes that one table entry can map, largest first. As
// KVM does, tables are concatenated at the first level where 16 or fewer suffice.
func blockSizes(ipaBits int) []uint64 {
	const pageBits, levelBits = 12, 9
	table := ipaBits - pageBits
	levels := (table + levelBits - 1) / levelBits
	if table-levelBits*(levels-1) <= 4 {
		levels--
	}
	var out []uint64
	for l := min(levels, 4) - 1; l >= 0; l-- {
		out = append(out, uint64(Granule)<<(levelBits*l))
	}
	return out
}

// Data measures content at an address, granule by granule (RMI_DATA_CREATE with
// RMI_MEASURE_CONTENT). What does not fill a granule is zeros.
func (r *RIM) Data(ipa uint64, content []byte) error {
	if bits.Len64(ipa) > 52 || len(content) == 0 {
		return fmt.Errorf("realm measurement: %d bytes at %#x", len(content), ipa)
	}
	var page [Granule]byte
	off := int(ipa % Granule)
	ipa -= uint64(off)
	for len(content) > 0 {
		clear(page[:])
		n := copy(page[off:], content)
		content, off = content[n:], 0
		sum := r.sum(page[:])
		d := r.descriptor(0)
		binary.LittleEndian.PutUint64(d[0x50:], ipa)
		d[0x58] = 1 // RMI_MEASURE_CONTENT
		copy(d[0x60:], sum[:])
		r.value = r.sum(d[:])
		ipa += Granule
	}
	return nil
}

// REC measures the one vCPU that runs at reset (RMI_REC_CREATE), with its entry
// and the first registers; the others are not runnable and measured by nobody.
func (r *RIM) REC(pc uint64, gprs [8]uint64) {
	var b [Granule]byte
	b[0] = 1 // runnable
	binary.LittleEndian.PutUint64(b[0x200:], pc)
	for i, g := range gprs {
		binary.LittleEndian.PutUint64(b[0x300+8*i:], g)
	}
	sum := r.sum(b[:])
	d := r.descriptor(1)
	copy(d[0x50:], sum[:])
	r.value = r.sum(d[:])
}
