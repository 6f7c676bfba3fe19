package uefi

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
)

const maxPESections = 96 // PE/COFF specification, section 3.3

// PE is the part of a PE image's headers that the Authenticode digest needs: which
// ranges are left out and in what order the rest is hashed.
type PE struct {
	checksum    int // offset of the checksum field, 4 bytes, not hashed
	securityDir int // offset of the certificate table's entry, 8 bytes, not hashed; -1: the image has no such entry
	headers     int // SizeOfHeaders
	certSize    int // bytes of the certificate table, at the end, not hashed
	size        int // of the image
	sections    []peSection
}

type peSection struct{ offset, size int }

// ParsePE reads the headers of a PE32 or PE32+ image.
func ParsePE(b []byte) (*PE, error) {
	le := binary.LittleEndian
	if len(b) < 64 || b[0] != 'M' || b[1] != 'Z' {
		return nil, errors.New("PE image: no MZ header")
	}
	pe := int64(le.Uint32(b[0x3c:]))
	if pe+24 > int64(len(b)) || string(b[pe:pe+4]) != "PE\x00\x00" {
		return nil, errors.New("PE image: no PE header")
	}
	coff := int(pe) + 4
	nsect, optSize := int(le.Uint16(b[coff+2:])), int(le.Uint16(b[coff+16:]))
	opt := coff + 20
	if nsect > maxPESections {
		return nil, fmt.Errorf("PE image: %d sections, at most %d", nsect, maxPESections)
	}
	if optSize < 96 || opt+optSize+40*nsect > len(b) {
		return nil, errors.New("PE image: headers are cut")
	}
	var dirs int // offset of the data directories' count
	switch le.Uint16(b[opt:]) {
	case 0x10b:
		dirs = opt + 92
	case 0x20b:
		dirs = opt + 108
	default:
		return nil, errors.New("PE image: optional header is neither PE32 nor PE32+")
	}
	l := &PE{checksum: opt + 64, securityDir: -1, headers: int(le.Uint32(b[opt+60:])), size: len(b)}
	const entry = 4 // index of the certificate table
	if dirs+4 > opt+optSize {
		return nil, errors.New("PE image: optional header is cut")
	}
	if le.Uint32(b[dirs:]) > entry {
		l.securityDir = dirs + 4 + 8*entry
		if l.securityDir+8 > opt+optSize {
			return nil, errors.New("PE image: data directories are cut")
		}
		l.certSize = int(le.Uint32(b[l.securityDir+4:]))
	}
	if l.headers > len(b) || l.headers < opt+optSize+40*nsect {
		return nil, fmt.Errorf("PE image: SizeOfHeaders %d does not fit", l.headers)
	}
	for i := range nsect {
		s := b[opt+optSize+40*i:]
		sec := peSection{offset: int(le.Uint32(s[20:])), size: int(le.Uint32(s[16:]))}
		if sec.size == 0 {
			continue
		}
		if sec.offset+sec.size > len(b) {
			return nil, fmt.Errorf("PE image: section %d lies outside the file", i)
		}
		l.sections = append(l.sections, sec)
	}
	slices.SortStableFunc(l.sections, func(a, b peSection) int { return cmp.Compare(a.offset, b.offset) })
	return l, nil
}

// Hash writes to h what "Windows Authenticode Portable Executable Signature
// Format", section "Calculating the PE Image Hash", hashes of an image, as firmware
// measures every image that it starts: all bytes in the order of the sections,
// without the checksum, the certificate table's entry and the certificates. b is
// the parsed image; fields that are no layout may have changed since.
func (p *PE) Hash(h hash.Hash, b []byte) error {
	if len(b) != p.size {
		return fmt.Errorf("PE image: %d bytes, %d when it was read", len(b), p.size)
	}
	h.Write(b[:p.checksum])
	next := p.checksum + 4
	if p.securityDir >= 0 {
		h.Write(b[next:p.securityDir])
		next = p.securityDir + 8
	}
	h.Write(b[next:p.headers])
	hashed := p.headers
	for _, s := range p.sections {
		h.Write(b[s.offset : s.offset+s.size])
		hashed += s.size
	}
	// What lies behind the sections counts too, except the certificates.
	if tail := len(b) - p.certSize; tail > hashed {
		h.Write(b[hashed:tail])
	} else if tail < hashed && p.certSize > 0 {
		return fmt.Errorf("PE image: certificate table of %d bytes overlaps the sections", p.certSize)
	}
	return nil
}
