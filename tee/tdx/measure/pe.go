package measure

import (
	"cmp"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

const maxPESections = 96 // PE/COFF specification, section 3.3

// authenticode is the SHA-384 digest of "Windows Authenticode Portable
// Executable Signature Format", section "Calculating the PE Image Hash", which
// firmware measures for every image that it starts: all bytes in the order of
// the sections, without the checksum, the certificate table's entry and the
// certificates.
func authenticode(b []byte) (Digest, error) {
	le := binary.LittleEndian
	if len(b) < 64 || b[0] != 'M' || b[1] != 'Z' {
		return Digest{}, errors.New("PE image: no MZ header")
	}
	pe := int64(le.Uint32(b[0x3c:]))
	if pe+24 > int64(len(b)) || string(b[pe:pe+4]) != "PE\x00\x00" {
		return Digest{}, errors.New("PE image: no PE header")
	}
	n, optSize := int64(le.Uint16(b[pe+6:])), int64(le.Uint16(b[pe+20:]))
	opt := pe + 24
	table := opt + optSize
	if n > maxPESections || optSize < 96 || table+40*n > int64(len(b)) {
		return Digest{}, errors.New("PE image: headers are cut")
	}
	var count int64 // offset of the number of data directories
	switch le.Uint16(b[opt:]) {
	case 0x10b:
		count = opt + 92
	case 0x20b:
		count = opt + 108
	default:
		return Digest{}, errors.New("PE image: optional header is neither PE32 nor PE32+")
	}
	if count+4 > table {
		return Digest{}, errors.New("PE image: optional header is cut")
	}
	checksum, headers := opt+64, int64(le.Uint32(b[opt+60:]))
	if headers > int64(len(b)) || headers < table+40*n {
		return Digest{}, fmt.Errorf("PE image: SizeOfHeaders %d does not fit", headers)
	}
	h := sha512.New384()
	h.Write(b[:checksum])
	next, certs := checksum+4, int64(0)
	if le.Uint32(b[count:]) > 4 {
		dir := count + 4 + 8*4
		if dir+8 > table {
			return Digest{}, errors.New("PE image: data directories are cut")
		}
		certs = int64(le.Uint32(b[dir+4:]))
		h.Write(b[next:dir])
		next = dir + 8
	}
	h.Write(b[next:headers])
	type span struct{ at, size int64 }
	var ss []span
	for i := range n {
		s := b[table+40*i:]
		if size, at := int64(le.Uint32(s[16:])), int64(le.Uint32(s[20:])); size > 0 {
			if at+size > int64(len(b)) {
				return Digest{}, fmt.Errorf("PE image: section %d lies outside the file", i)
			}
			ss = append(ss, span{at, size})
		}
	}
	slices.SortStableFunc(ss, func(a, b span) int { return cmp.Compare(a.at, b.at) })
	hashed := headers
	for _, s := range ss {
		h.Write(b[s.at : s.at+s.size])
		hashed += s.size
	}
	switch tail := int64(len(b)) - certs; {
	case tail > hashed:
		h.Write(b[hashed:tail])
	case tail < hashed && certs > 0:
		return Digest{}, fmt.Errorf("PE image: certificate table of %d bytes overlaps the sections", certs)
	}
	return Digest(h.Sum(nil)), nil
}
