package measure

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/internal/uefi"
)

// MaxFirmware bounds a firmware image.
const MaxFirmware = 64 << 20

const (
	pageSize    = 4096
	maxSections = 64
	maxMeasured = 1 << 30 // bytes of all sections
)

// SectionType says what a section holds.
type SectionType uint32

// Section types of the TDVF design guide, section 11.
const (
	SectionBFV     SectionType = 0 // boot firmware volume: code
	SectionCFV     SectionType = 1 // configuration firmware volume: variables
	SectionTDHOB   SectionType = 2 // where the VMM puts the hand-off blocks
	SectionTempMem SectionType = 3 // zeroed memory
)

// attrExtend: the section's bytes go into MRTD, not only its addresses.
const attrExtend = 1

// Section is one entry of the TDVF metadata: what is added to the TD before it
// first runs.
type Section struct {
	DataOffset uint32 // in the image
	RawSize    uint32 // bytes of the image, the rest of MemSize is zero
	GPA        uint64 // guest-physical address
	MemSize    uint64
	Type       SectionType
	Attributes uint32
}

// guidFooter ends the table of GUIDed structures behind the reset vector's
// code; guidTDX names the entry that leads to the metadata.
var (
	guidFooter = uefi.GUID{0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d}
	guidTDX    = uefi.GUID{0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2}
)

// sections reads the TDVF metadata. The image ends at 4 GiB; 32 bytes before
// its end lies the footer of the table.
func sections(fw []byte) ([]Section, error) {
	desc, err := metadataOffset(fw)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if desc < 0 || desc+16 > int64(len(fw)) || string(fw[desc:desc+4]) != "TDVF" {
		return nil, errors.New("TDVF metadata: no descriptor")
	}
	d := fw[desc:]
	if v := le.Uint32(d[8:]); v != 1 {
		return nil, fmt.Errorf("TDVF metadata: version %d is not supported", v)
	}
	n := le.Uint32(d[12:])
	if n == 0 || n > maxSections || le.Uint32(d[4:]) != 16+32*n || int64(len(d)) < 16+32*int64(n) {
		return nil, fmt.Errorf("TDVF metadata: %d sections in %d bytes", n, le.Uint32(d[4:]))
	}
	out := make([]Section, n)
	var total uint64
	for i := range out {
		b := d[16+32*i:]
		s := Section{le.Uint32(b), le.Uint32(b[4:]), le.Uint64(b[8:]), le.Uint64(b[16:]), SectionType(le.Uint32(b[24:])), le.Uint32(b[28:])}
		if err := s.validate(len(fw)); err != nil {
			return nil, fmt.Errorf("TDVF metadata: section %d: %w", i, err)
		}
		if total += s.MemSize; total > maxMeasured {
			return nil, fmt.Errorf("TDVF metadata: sections of more than %d bytes", maxMeasured)
		}
		out[i] = s
	}
	return out, nil
}

func (s *Section) validate(size int) error {
	switch {
	case s.GPA%pageSize != 0 || s.MemSize%pageSize != 0 || s.MemSize == 0 || s.MemSize > maxMeasured || s.GPA > 1<<52:
		return fmt.Errorf("%#x bytes at %#x are no pages", s.MemSize, s.GPA)
	case uint64(s.RawSize) > s.MemSize || int64(s.DataOffset)+int64(s.RawSize) > int64(size):
		return fmt.Errorf("%#x bytes of data at %#x do not fit", s.RawSize, s.DataOffset)
	case s.Attributes&^attrExtend != 0:
		return fmt.Errorf("attributes %#x are not supported", s.Attributes)
	}
	switch s.Type {
	case SectionBFV, SectionCFV:
		if s.RawSize == 0 {
			return errors.New("a volume without data")
		}
	case SectionTDHOB, SectionTempMem:
		if s.RawSize != 0 || s.Attributes != 0 {
			return errors.New("memory with data")
		}
	default:
		return fmt.Errorf("type %d is not supported", s.Type)
	}
	return nil
}

// metadataOffset walks the table backwards: each entry ends in its length and
// its name.
func metadataOffset(fw []byte) (int64, error) {
	const fromEnd = 32
	le := binary.LittleEndian
	end := len(fw) - fromEnd
	if end < 18 || uefi.GUID(fw[end-16:end]) != guidFooter {
		return 0, errors.New("firmware: no table of GUIDed structures")
	}
	size := int(le.Uint16(fw[end-18:]))
	if size < 18 || size > end {
		return 0, errors.New("firmware: table of GUIDed structures does not fit")
	}
	for p, start := end-18, end-size; p > start; {
		if p-start < 18 {
			return 0, errors.New("firmware: GUIDed structure is cut")
		}
		n := int(le.Uint16(fw[p-18:]))
		if n < 18 || n > p-start {
			return 0, errors.New("firmware: GUIDed structure does not fit")
		}
		if uefi.GUID(fw[p-16:p]) == guidTDX {
			if n < 22 {
				return 0, errors.New("firmware: TDVF entry is cut")
			}
			return int64(len(fw)) - int64(le.Uint32(fw[p-n:])), nil
		}
		p -= n
	}
	return 0, errors.New("firmware: no TDVF metadata, so no TDX firmware")
}
