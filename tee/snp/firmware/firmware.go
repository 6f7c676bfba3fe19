// Package firmware reads what an OVMF image says about its own SEV launch (the
// GUID table below the reset vector, OvmfPkg/ResetVector, and the SEV metadata
// that it points to) and builds the initial state of a vCPU, its save area
// (VMSA). Expected measurements and the simulated hardware both rest on it.
//
// Invariants: every length and offset is checked; what is missing is said to be
// missing, never guessed.
//
// Trust zone: owner, and the simulated hardware.
package firmware

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// PageSize is the size of a measured page.
const PageSize = 4096

// Limits.
const (
	MaxSize     = 64 << 20
	maxSections = 64
	maxSection  = 64 << 20
)

// Kinds of sections of the SEV metadata.
const (
	SectionMemory  = 1 // zeroed before launch
	SectionSecrets = 2
	SectionCPUID   = 3
	SectionCAA     = 4    // SVSM calling area
	SectionHashes  = 0x10 // the page of the kernel-hash table
)

// Section is a range of guest memory that is set up before launch.
type Section struct {
	GPA  uint64
	Size uint64
	Kind uint32
}

// Image is a firmware image.
type Image struct {
	Data []byte
	// GPA is where it lies: it ends at 4 GiB.
	GPA uint64
	// Sections are the SEV metadata, in their order; nil: the image has none and
	// cannot start under SNP.
	Sections []Section
	// HashTable is where the kernel-hash table goes; 0: the image takes none.
	HashTable     uint64
	HashTableSize uint32
	// ResetEIP is where application processors start; 0: not said.
	ResetEIP uint32
}

// GUIDs of the table, in their mixed-endian bytes.
var (
	guidFooter   = guid("96b582de-1fb2-45f7-baea-a366c55a082d")
	guidMetadata = guid("dc886566-984a-4798-a75e-5585a7bf67cc")
	guidHashes   = guid("7255371f-3a3b-4b04-927b-1da6efa8d454")
	guidReset    = guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
)

const (
	entryHead   = 18 // size and GUID follow their data
	resetVector = 32 // after the table
	metadataSig = "ASEV"
)

// Parse reads an image.
func Parse(b []byte) (*Image, error) {
	if len(b) < PageSize || len(b) > MaxSize || len(b)%PageSize != 0 {
		return nil, fmt.Errorf("firmware: %d bytes, not whole pages of at most %d", len(b), MaxSize)
	}
	m := &Image{Data: b, GPA: 1<<32 - uint64(len(b))}
	end := len(b) - resetVector
	size := int(binary.LittleEndian.Uint16(b[end-entryHead:]))
	if [16]byte(b[end-16:end]) != guidFooter {
		return nil, errors.New("firmware: no GUID table below the reset vector: not an OVMF image for SEV")
	}
	if size < entryHead || size > end {
		return nil, fmt.Errorf("firmware: GUID table of %d bytes", size)
	}
	table := b[end-size : end-entryHead]
	seen := map[[16]byte]bool{}
	for len(table) > 0 {
		if len(table) < entryHead {
			return nil, errors.New("firmware: GUID table: rest is no entry")
		}
		id := [16]byte(table[len(table)-16:])
		n := int(binary.LittleEndian.Uint16(table[len(table)-entryHead:]))
		if n < entryHead || n > len(table) {
			return nil, fmt.Errorf("firmware: GUID table: entry of %d bytes", n)
		}
		if seen[id] {
			return nil, fmt.Errorf("firmware: GUID table: %x comes twice", id)
		}
		seen[id] = true
		if err := m.entry(id, table[len(table)-n:len(table)-entryHead]); err != nil {
			return nil, err
		}
		table = table[:len(table)-n]
	}
	return m, nil
}

func (m *Image) entry(id [16]byte, v []byte) error {
	le := binary.LittleEndian
	switch id {
	case guidHashes:
		if len(v) < 8 {
			return errors.New("firmware: entry of the hash table is too short")
		}
		m.HashTable, m.HashTableSize = uint64(le.Uint32(v)), le.Uint32(v[4:])
	case guidReset:
		if len(v) < 4 {
			return errors.New("firmware: entry of the reset block is too short")
		}
		m.ResetEIP = le.Uint32(v)
	case guidMetadata:
		if len(v) < 4 {
			return errors.New("firmware: entry of the SEV metadata is too short")
		}
		return m.metadata(le.Uint32(v))
	}
	return nil
}

func (m *Image) metadata(fromEnd uint32) error {
	le := binary.LittleEndian
	const head, item = 16, 12
	if fromEnd < head || uint64(fromEnd) > uint64(len(m.Data)) {
		return fmt.Errorf("firmware: SEV metadata %d bytes before the end", fromEnd)
	}
	b := m.Data[len(m.Data)-int(fromEnd):]
	size, version, n := le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
	if string(b[:4]) != metadataSig || version != 1 {
		return fmt.Errorf("firmware: SEV metadata: signature %q version %d", b[:4], version)
	}
	if n == 0 || n > maxSections || size != head+n*item || int(size) > len(b) {
		return fmt.Errorf("firmware: SEV metadata: %d sections in %d bytes", n, size)
	}
	var total uint64
	for i := range int(n) {
		s := b[head+i*item:]
		x := Section{GPA: uint64(le.Uint32(s)), Size: uint64(le.Uint32(s[4:])), Kind: le.Uint32(s[8:])}
		if x.Size == 0 || x.GPA%PageSize != 0 || x.Size%PageSize != 0 || x.GPA+x.Size > m.GPA {
			return fmt.Errorf("firmware: SEV metadata: section %d: %d bytes at %#x", i, x.Size, x.GPA)
		}
		if total += x.Size; total > maxSection {
			return fmt.Errorf("firmware: SEV metadata: sections of more than %d bytes", maxSection)
		}
		m.Sections = append(m.Sections, x)
	}
	return nil
}

// guid turns the text of a GUID into its mixed-endian bytes.
func guid(s string) (g [16]byte) {
	var a, e uint64
	var b, c, d uint16
	if _, err := fmt.Sscanf(s, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); err != nil {
		panic(err) // constants of this package
	}
	binary.LittleEndian.PutUint32(g[:], uint32(a))
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	binary.BigEndian.PutUint16(g[8:], d)
	for i := range 6 {
		g[10+i] = byte(e >> (40 - 8*i))
	}
	return g
}
