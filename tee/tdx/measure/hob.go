package measure

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ram is a range of memory that the VMM gives the TD.
type ram struct {
	at, size uint64
	added    bool // part of the TD before it starts; else to be accepted by the guest
}

// lowMemory is how much of the memory QEMU's q35 machine puts below 4 GiB.
func lowMemory(memory uint64) uint64 {
	const most, split = 0xb0000000, 0x80000000
	if memory < most {
		return memory
	}
	return split
}

// memoryMap is QEMU's list of memory ranges (target/i386/kvm/tdx.c) for q35: the
// sections for hand-off blocks and temporary memory are added before the start,
// and split the range that they lie in.
func memoryMap(memoryMiB int, ss []Section) ([]ram, error) {
	memory := uint64(memoryMiB) << 20
	low := lowMemory(memory)
	m := []ram{{0, low, false}}
	if memory > low {
		m = append(m, ram{4 << 30, memory - low, false})
	}
	for _, s := range ss {
		if s.Type != SectionTDHOB && s.Type != SectionTempMem {
			continue
		}
		var err error
		if m, err = accept(m, s.GPA, s.MemSize); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(m, func(a, b ram) int {
		if a.at < b.at {
			return -1
		}
		return 1
	})
	return m, nil
}

// accept marks [at, at+size) as added.
func accept(m []ram, at, size uint64) ([]ram, error) {
	i := slices.IndexFunc(m, func(r ram) bool { return at < r.at+r.size && r.at < at+size })
	if i < 0 || m[i].at > at || m[i].at+m[i].size < at+size {
		return nil, fmt.Errorf("firmware needs %#x bytes at %#x, which is no memory", size, at)
	}
	if m[i].added {
		return m, nil
	}
	was := m[i]
	m[i] = ram{at, size, true}
	if at > was.at {
		m = append(m, ram{was.at, at - was.at, false})
	}
	if end := was.at + was.size; at+size < end {
		m = append(m, ram{at + size, end - at - size, false})
	}
	return m, nil
}

// Numbers of hand-off blocks (UEFI PI specification, volume 3).
const (
	hobHandoff  = 1
	hobResource = 3

	resourceMemory     = 0
	resourceUnaccepted = 7

	attrTested = 7 // present, initialized, tested
)

// tdHOB is the list of hand-off blocks that QEMU writes (hw/i386/tdvf-hob.c),
// up to but without its end marker: what the firmware measures.
func tdHOB(memoryMiB int, ss []Section) ([]byte, error) {
	i := slices.IndexFunc(ss, func(s Section) bool { return s.Type == SectionTDHOB })
	if i < 0 {
		return nil, errors.New("firmware has no section for hand-off blocks")
	}
	m, err := memoryMap(memoryMiB, ss)
	if err != nil {
		return nil, err
	}
	const handoffLen, resourceLen, endLen = 56, 48, 8
	total := uint64(handoffLen + resourceLen*len(m) + endLen)
	if total > ss[i].MemSize {
		return nil, fmt.Errorf("hand-off blocks of %d bytes do not fit into %d", total, ss[i].MemSize)
	}
	le := binary.LittleEndian
	b := hobHeader(hobHandoff, handoffLen)
	b = le.AppendUint32(b, 9)               // version of the hand-off table
	b = append(b, make([]byte, 4+4*8)...)   // boot mode and four unused addresses
	b = le.AppendUint64(b, ss[i].GPA+total) // end of the list
	for _, r := range m {
		kind := uint32(resourceUnaccepted)
		if r.added {
			kind = resourceMemory
		}
		b = append(b, hobHeader(hobResource, resourceLen)...)
		b = append(b, make([]byte, 16)...) // owner
		b = le.AppendUint32(b, kind)
		b = le.AppendUint32(b, attrTested)
		b = le.AppendUint64(b, r.at)
		b = le.AppendUint64(b, r.size)
	}
	return b, nil
}

func hobHeader(typ, size uint16) []byte {
	b := binary.LittleEndian.AppendUint16(nil, typ)
	b = binary.LittleEndian.AppendUint16(b, size)
	return append(b, 0, 0, 0, 0)
}
