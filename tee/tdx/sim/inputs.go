package sim

import (
	"bytes"
	"crypto/sha512"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/tdx/measure"
)

// block is a hand-off block that describes memory (UEFI PI specification, volume
// 3, resource descriptor).
type block struct {
	Type, Length uint16
	_            uint32
	Owner        [16]byte
	Kind         uint32 // 0: there; 7: to be accepted
	Attributes   uint32
	Start, Size  uint64
}

// handOff is the list that QEMU gives a TD with so much memory, without its end
// marker, and the address at which it lies.
func handOff(memoryMiB int, ss []measure.Section) (list []byte, at uint64, err error) {
	const gib = 1 << 30
	total := uint64(memoryMiB) << 20
	if memoryMiB < 1 || total > 1<<46 {
		return nil, 0, fmt.Errorf("%d MiB of memory", memoryMiB)
	}
	low := total
	if low >= 0xb0000000 { // 2.75 GiB: then the hole for devices begins at 2 GiB
		low = 2 * gib
	}
	// Cut memory at every border, then say which pieces are there already.
	type span struct{ from, to uint64 }
	var there []span
	cuts := []uint64{0, low}
	if total > low {
		cuts = append(cuts, 4*gib, 4*gib+total-low)
	}
	for _, s := range ss {
		switch s.Type {
		case measure.SectionTDHOB:
			at = s.GPA
		case measure.SectionTempMem:
		default:
			continue
		}
		if s.GPA+s.MemSize > low {
			return nil, 0, fmt.Errorf("the firmware needs memory at %#x", s.GPA)
		}
		there = append(there, span{s.GPA, s.GPA + s.MemSize})
		cuts = append(cuts, s.GPA, s.GPA+s.MemSize)
	}
	if at == 0 {
		return nil, 0, errors.New("the firmware has no place for hand-off blocks")
	}
	sort.Slice(cuts, func(i, j int) bool { return cuts[i] < cuts[j] })
	var blocks []block
	for i := 1; i < len(cuts); i++ {
		from, to := cuts[i-1], cuts[i]
		if from == to || from >= low && from < 4*gib {
			continue
		}
		b := block{Type: 3, Length: 48, Kind: 7, Attributes: 7, Start: from, Size: to - from}
		for _, t := range there {
			if t.from <= from && to <= t.to {
				b.Kind = 0
			}
		}
		blocks = append(blocks, b)
	}
	var buf bytes.Buffer
	head := struct {
		Type, Length  uint16
		_             uint32
		Version, Mode uint32
		Unused        [4]uint64
		End           uint64
	}{Type: 1, Length: 56, Version: 9, End: at + 56 + uint64(len(blocks))*48 + 8}
	for _, v := range []any{head, blocks} {
		if err := binary.Write(&buf, binary.LittleEndian, v); err != nil {
			return nil, 0, err
		}
	}
	return buf.Bytes(), at, nil
}

// apicTable is QEMU's ACPI table of interrupt controllers: it has one entry for
// each vCPU.
func apicTable(vcpus int) ([]byte, error) {
	if vcpus < 1 || vcpus > launch.MaxVCPUs {
		return nil, fmt.Errorf("%d vCPUs", vcpus)
	}
	type cpu struct {
		Type, Length, ID, APIC uint8
		Flags                  uint32
	}
	type override struct {
		Type, Length, Bus, Source uint8
		GSI                       uint32
		Flags                     uint16
	}
	cpus := make([]cpu, vcpus)
	for i := range cpus {
		cpus[i] = cpu{0, 8, uint8(i), uint8(i), 1}
	}
	ioapic := struct {
		Type, Length, ID, _ uint8
		Address, Base       uint32
	}{Type: 1, Length: 12, Address: 0xfec00000}
	overrides := []override{{2, 10, 0, 0, 2, 0}}
	for _, irq := range []uint8{5, 9, 10, 11} {
		overrides = append(overrides, override{2, 10, 0, irq, uint32(irq), 0xd})
	}
	nmi := [6]uint8{4, 6, 0xff, 0, 0, 1}
	head := struct {
		Signature          [4]byte
		Length             uint32
		Revision, Checksum uint8
		OEM                [6]byte
		Table              [8]byte
		Version            uint32
		Creator            [4]byte
		CreatorVersion     uint32
		LocalAPIC, Flags   uint32
	}{
		Signature: [4]byte([]byte("APIC")), Revision: 3, OEM: [6]byte([]byte("BOCHS ")), Table: [8]byte([]byte("BXPC    ")), Version: 1,
		Creator: [4]byte([]byte("BXPC")), CreatorVersion: 1, LocalAPIC: 0xfee00000, Flags: 1,
	}
	parts := []any{&head, cpus, ioapic, overrides, nmi}
	for _, p := range parts {
		head.Length += uint32(binary.Size(p))
	}
	var buf bytes.Buffer
	for _, p := range parts {
		if err := binary.Write(&buf, binary.LittleEndian, p); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), nil
}

// imageDigest is the Authenticode digest of a PE image.
func imageDigest(b []byte) ([]byte, error) {
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var headers, dirs uint32
	var dir pe.DataDirectory
	// The optional header starts behind the signature and the file header.
	opt := int64(binary.LittleEndian.Uint32(b[0x3c:])) + 4 + 20
	switch h := f.OptionalHeader.(type) {
	case *pe.OptionalHeader64:
		headers, dirs, dir = h.SizeOfHeaders, h.NumberOfRvaAndSizes, h.DataDirectory[4]
	case *pe.OptionalHeader32:
		return nil, errors.New("an image for 32 bits")
	default:
		return nil, errors.New("no optional header")
	}
	if int64(headers) > int64(len(b)) || int64(headers) < opt+152 || dirs <= 4 {
		return nil, errors.New("headers that do not fit")
	}
	sort.SliceStable(f.Sections, func(i, j int) bool { return f.Sections[i].Offset < f.Sections[j].Offset })
	h := sha512.New384()
	h.Write(b[:opt+64])          // up to the checksum
	h.Write(b[opt+68 : opt+144]) // up to the certificate table's entry
	h.Write(b[opt+152 : headers])
	n := int64(headers)
	for _, s := range f.Sections {
		end := int64(s.Offset) + int64(s.Size)
		if end > int64(len(b)) {
			return nil, fmt.Errorf("section %s does not fit", s.Name)
		}
		h.Write(b[s.Offset:end])
		n += int64(s.Size)
	}
	if rest := int64(len(b)) - int64(dir.Size); rest > n {
		h.Write(b[n:rest])
	} else if rest < n && dir.Size > 0 {
		return nil, errors.New("certificates that overlap sections")
	}
	return h.Sum(nil), nil
}
