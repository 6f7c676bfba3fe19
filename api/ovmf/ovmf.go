// Package ovmf reads the table of GUIDed structures that an OVMF image has below
// its reset vector (OvmfPkg/ResetVector): what the firmware says of its own launch
// under SEV and TDX. The image is not trusted: whoever measures it decides that.
//
// Invariants: every length is checked; no structure may come twice.
//
// Trust zone: none of its own; read by the owner, who measures, and by the node,
// which refuses early what could not start.
package ovmf

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// GUID is a GUID in its mixed-endian bytes.
type GUID = [16]byte

// GUIDs of the table.
var (
	footer = GUID{0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d}
	// SEVHashTable leads to the room for hashes of kernel, initrd and command line.
	SEVHashTable = GUID{0x1f, 0x37, 0x55, 0x72, 0x3b, 0x3a, 0x04, 0x4b, 0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54}
	// SEVMetadata leads to the pages of an SNP launch.
	SEVMetadata = GUID{0x66, 0x65, 0x88, 0xdc, 0x4a, 0x98, 0x98, 0x47, 0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc}
	// TDXMetadata leads to the sections of a TDX launch.
	TDXMetadata = GUID{0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2}
)

const (
	entryHead   = 18 // size and GUID follow their data
	resetVector = 32 // after the table
	// MaxSize bounds an image, in bytes.
	MaxSize = 64 << 20
)

// Walk gives each structure of the table to f, from the last to the first, and
// stops at f's first error.
func Walk(image []byte, f func(id GUID, data []byte) error) error {
	if len(image) < resetVector+entryHead || len(image) > MaxSize {
		return fmt.Errorf("firmware: %d bytes, at most %d", len(image), MaxSize)
	}
	end := len(image) - resetVector
	size := int(binary.LittleEndian.Uint16(image[end-entryHead:]))
	if GUID(image[end-16:end]) != footer {
		return errors.New("firmware: no GUID table below the reset vector: not an OVMF image for TEEs")
	}
	if size < entryHead || size > end {
		return fmt.Errorf("firmware: GUID table of %d bytes", size)
	}
	table := image[end-size : end-entryHead]
	seen := map[GUID]bool{}
	for len(table) > 0 {
		if len(table) < entryHead {
			return errors.New("firmware: GUID table: rest is no entry")
		}
		id := GUID(table[len(table)-16:])
		n := int(binary.LittleEndian.Uint16(table[len(table)-entryHead:]))
		if n < entryHead || n > len(table) {
			return fmt.Errorf("firmware: GUID table: entry of %d bytes", n)
		}
		if seen[id] {
			return fmt.Errorf("firmware: GUID table: %x comes twice", id)
		}
		seen[id] = true
		if err := f(id, table[len(table)-n:len(table)-entryHead]); err != nil {
			return err
		}
		table = table[:len(table)-n]
	}
	return nil
}

// Abilities are what an image says it can be started under.
type Abilities struct {
	KernelHashes bool // it has room for the kernel's hashes: without, SEV measures no kernel
	SNP, TDX     bool
}

// hashTableSize is what three hashes with their heads take.
const hashTableSize = 18 + 3*(18+32)

// ReadAbilities reads them off an image.
func ReadAbilities(image []byte) (Abilities, error) {
	var a Abilities
	err := Walk(image, func(id GUID, data []byte) error {
		switch id {
		case SEVHashTable:
			if len(data) < 8 {
				return errors.New("firmware: entry of the hash table is too short")
			}
			// An image that takes no hashes has the entry as well, all zero.
			a.KernelHashes = binary.LittleEndian.Uint32(data) != 0 && binary.LittleEndian.Uint32(data[4:]) >= hashTableSize
		case SEVMetadata:
			a.SNP = true
		case TDXMetadata:
			a.TDX = true
		}
		return nil
	})
	if err != nil {
		return Abilities{}, err
	}
	return a, nil
}
