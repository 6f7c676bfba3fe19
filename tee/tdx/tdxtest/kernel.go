// Package tdxtest makes small inputs for the tests of TDX measurements.
//
// Trust zone: tests only.
package tdxtest

import "encoding/binary"

// Kernel is the smallest image that is both a Linux kernel with a setup header
// and a PE32+ application with two sections; text makes it different from
// others. certs bytes of certificates stand at its end.
func Kernel(text string, certs int) []byte {
	const (
		pe      = 0x300
		opt     = pe + 24
		optSize = 160
		table   = opt + optSize
		headers = 0x600
		section = 0x200
	)
	b := make([]byte, headers+2*section+len(text)+certs)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], pe)
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x20f)
	le.PutUint16(b[0x236:], 2) // may be loaded above 4 GiB
	copy(b[pe:], "PE\x00\x00")
	le.PutUint16(b[pe+4:], 0x8664)
	le.PutUint16(b[pe+6:], 2)
	le.PutUint16(b[pe+20:], optSize)
	le.PutUint16(b[opt:], 0x20b)
	le.PutUint32(b[opt+60:], headers)
	le.PutUint32(b[opt+64:], 0x12345678) // checksum
	le.PutUint32(b[opt+108:], 6)         // data directories
	if certs > 0 {
		le.PutUint32(b[opt+112+32:], uint32(len(b)-certs))
		le.PutUint32(b[opt+112+36:], uint32(certs))
	}
	for i, at := range []int{headers + section, headers} { // not in the order of the file
		s := b[table+40*i:]
		copy(s, []string{".text", ".data"}[i])
		le.PutUint32(s[8:], section)
		le.PutUint32(s[16:], section)
		le.PutUint32(s[20:], uint32(at))
		for j := range section {
			b[at+j] = byte(i + j)
		}
	}
	copy(b[headers+2*section:], text)
	return b
}
