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

	"github.com/cofferproject/coffer/api/ovmf"
)

// PageSize is the size of a measured page.
const PageSize = 4096

// Limits.
const (
	MaxSize     = ovmf.MaxSize
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

// guidReset leads to where further vCPUs start.
var guidReset = ovmf.GUID{0xde, 0x71, 0xf7, 0x00, 0x7e, 0x1a, 0xcb, 0x4f, 0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e}

const metadataSig = "ASEV"

// Parse reads an image.
func Parse(b []byte) (*Image, error) {
	if len(b) < PageSize || len(b) > MaxSize || len(b)%PageSize != 0 {
		return nil, fmt.Errorf("firmware: %d bytes, not whole pages of at most %d", len(b), MaxSize)
	}
	m := &Image{Data: b, GPA: 1<<32 - uint64(len(b))}
	if err := ovmf.Walk(b, m.entry); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Image) entry(id ovmf.GUID, v []byte) error {
	le := binary.LittleEndian
	switch id {
	case ovmf.SEVHashTable:
		if len(v) < 8 {
			return errors.New("firmware: entry of the hash table is too short")
		}
		m.HashTable, m.HashTableSize = uint64(le.Uint32(v)), le.Uint32(v[4:])
	case guidReset:
		if len(v) < 4 {
			return errors.New("firmware: entry of the reset block is too short")
		}
		m.ResetEIP = le.Uint32(v)
	case ovmf.SEVMetadata:
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
