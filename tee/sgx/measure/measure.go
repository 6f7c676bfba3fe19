// Package measure computes MRENCLAVE, the digest of how an enclave was built
// (Intel SDM volume 3D, chapter "Enclave Operation": ECREATE, EADD, EEXTEND).
//
// The input is the list of pages in the order in which they are added, or an
// SGXS stream, which has the same steps on disk. A SIGSTRUCT adds what the signer
// says.
//
// Invariants: bounded; what the CPU would refuse to build is an error, not a
// digest.
//
// Trust zone: owner. Outside vectors: testdata/README.md.
package measure

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Sizes in bytes.
const (
	PageSize  = 4096
	ChunkSize = 256 // what one EEXTEND measures
	block     = 64
)

// MaxSize is the largest address range of an enclave, in bytes.
const MaxSize = 1 << 36

// Flags of a page's SECINFO.
const (
	Read  uint64 = 1 << 0
	Write uint64 = 1 << 1
	Exec  uint64 = 1 << 2

	TCS     uint64 = 1 << 8
	Regular uint64 = 2 << 8
)

const typeMask uint64 = 0xff << 8

// Page is one page that EADD adds.
type Page struct {
	Offset uint64 // from the enclave's base, in bytes
	Flags  uint64 // of SECINFO
	// Data is what the page holds: 4096 bytes, or nil for zeros.
	Data []byte
	// Measured are the chunks of 256 bytes that EEXTEND measures, bit 0 first;
	// AllChunks for the whole page.
	Measured uint16
}

// AllChunks measures a whole page.
const AllChunks uint16 = 0xffff

// Builder follows the CPU through the building of an enclave.
type Builder struct {
	h    hash.Hash
	size uint64
	seen map[uint64]bool
}

// New is ECREATE: size of the address range (a power of two), and of one SSA
// frame in pages.
func New(size uint64, ssaFrame uint32) (*Builder, error) {
	if size < 2*PageSize || size > MaxSize || size&(size-1) != 0 {
		return nil, fmt.Errorf("mrenclave: size %#x is not a power of two between %#x and %#x", size, 2*PageSize, uint64(MaxSize))
	}
	if ssaFrame == 0 {
		return nil, errors.New("mrenclave: SSA frame of no pages")
	}
	b := &Builder{h: sha256.New(), size: size, seen: map[uint64]bool{}}
	r := b.record("ECREATE\x00")
	binary.LittleEndian.PutUint32(r[8:], ssaFrame)
	binary.LittleEndian.PutUint64(r[12:], size)
	b.h.Write(r[:])
	return b, nil
}

func (b *Builder) record(name string) *[block]byte {
	r := new([block]byte)
	copy(r[:8], name)
	return r
}

// Add is EADD and the EEXTENDs of a page.
func (b *Builder) Add(p *Page) error {
	if p.Data != nil && len(p.Data) != PageSize {
		return fmt.Errorf("mrenclave: page of %d bytes", len(p.Data))
	}
	if err := b.add(p.Offset, p.Flags); err != nil {
		return err
	}
	data := p.Data
	if data == nil {
		data = make([]byte, PageSize)
	}
	for i := range PageSize / ChunkSize {
		if p.Measured&(1<<i) != 0 {
			b.extend(p.Offset+uint64(i)*ChunkSize, data[i*ChunkSize:(i+1)*ChunkSize])
		}
	}
	return nil
}

func (b *Builder) add(offset, flags uint64) error {
	switch t := flags & typeMask; {
	case offset%PageSize != 0 || offset >= b.size:
		return fmt.Errorf("mrenclave: page at %#x of %#x", offset, b.size)
	case b.seen[offset]:
		return fmt.Errorf("mrenclave: page at %#x comes twice", offset)
	case t != TCS && t != Regular || flags&^(typeMask|Read|Write|Exec) != 0:
		return fmt.Errorf("mrenclave: page at %#x: flags %#x", offset, flags)
	case t == TCS && flags != TCS:
		return fmt.Errorf("mrenclave: thread control structure at %#x with permissions", offset)
	case t == Regular && flags&Read == 0 && flags&Write != 0:
		return fmt.Errorf("mrenclave: page at %#x can be written but not read", offset)
	}
	b.seen[offset] = true
	r := b.record("EADD\x00\x00\x00\x00")
	binary.LittleEndian.PutUint64(r[8:], offset)
	binary.LittleEndian.PutUint64(r[16:], flags)
	b.h.Write(r[:])
	return nil
}

func (b *Builder) extend(offset uint64, data []byte) {
	r := b.record("EEXTEND\x00")
	binary.LittleEndian.PutUint64(r[8:], offset)
	b.h.Write(r[:])
	b.h.Write(data)
}

// MREnclave is the digest at EINIT. The Builder may go on.
func (b *Builder) MREnclave() [32]byte { return [32]byte(b.h.Sum(nil)) }

// FromSGXS measures an SGXS stream (fortanix/rust-sgx, doc/SGXS.md): records of 64 bytes,
// ECREATE first, chunk data behind EEXTEND; unmeasured chunks are marked so and
// do not count.
func FromSGXS(r io.Reader) ([32]byte, error) {
	var rec [block]byte
	if _, err := io.ReadFull(r, rec[:]); err != nil {
		return [32]byte{}, fmt.Errorf("sgxs: %w", err)
	}
	if string(rec[:8]) != "ECREATE\x00" || !zero(rec[20:]) {
		return [32]byte{}, errors.New("sgxs: does not begin with ECREATE")
	}
	b, err := New(binary.LittleEndian.Uint64(rec[12:]), binary.LittleEndian.Uint32(rec[8:]))
	if err != nil {
		return [32]byte{}, err
	}
	page := uint64(1) // no page's offset
	last := page
	for {
		if _, err := io.ReadFull(r, rec[:]); errors.Is(err, io.EOF) {
			return b.MREnclave(), nil
		} else if err != nil {
			return [32]byte{}, fmt.Errorf("sgxs: %w", err)
		}
		offset := binary.LittleEndian.Uint64(rec[8:])
		switch name := string(rec[:8]); name {
		case "EADD\x00\x00\x00\x00":
			if !zero(rec[24:]) {
				return [32]byte{}, fmt.Errorf("sgxs: page at %#x: reserved bytes of SECINFO", offset)
			}
			if err := b.add(offset, binary.LittleEndian.Uint64(rec[16:])); err != nil {
				return [32]byte{}, err
			}
			page, last = offset, offset-1
		case "EEXTEND\x00", "UNMEASRD":
			if offset%ChunkSize != 0 || page%PageSize != 0 || offset&^(PageSize-1) != page || offset < last+1 || !zero(rec[16:]) {
				return [32]byte{}, fmt.Errorf("sgxs: chunk at %#x", offset)
			}
			last = offset
			var data [ChunkSize]byte
			if _, err := io.ReadFull(r, data[:]); err != nil {
				return [32]byte{}, fmt.Errorf("sgxs: %w", err)
			}
			if name == "EEXTEND\x00" {
				b.extend(offset, data[:])
			}
		default:
			return [32]byte{}, fmt.Errorf("sgxs: record %q", name)
		}
	}
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
