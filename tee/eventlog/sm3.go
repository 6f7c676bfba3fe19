package eventlog

import (
	"encoding/binary"
	"hash"
	"math/bits"
)

// sm3 is the hash GB/T 32905-2016, which some platforms' logs use. It is here
// only to compare digests with event data.
type sm3 struct {
	v   [8]uint32
	buf []byte
	n   uint64
}

func newSM3() hash.Hash {
	d := new(sm3)
	d.Reset()
	return d
}

func (d *sm3) Size() int      { return 32 }
func (d *sm3) BlockSize() int { return 64 }

func (d *sm3) Reset() {
	d.v = [8]uint32{0x7380166f, 0x4914b2b9, 0x172442d7, 0xda8a0600, 0xa96f30bc, 0x163138aa, 0xe38dee4d, 0xb0fb0e4e}
	d.buf, d.n = d.buf[:0], 0
}

func (d *sm3) Write(p []byte) (int, error) {
	d.n += uint64(len(p))
	d.buf = append(d.buf, p...)
	for len(d.buf) >= 64 {
		d.block(d.buf[:64])
		d.buf = d.buf[64:]
	}
	return len(p), nil
}

func (d *sm3) Sum(in []byte) []byte {
	c := sm3{v: d.v, buf: append([]byte(nil), d.buf...)}
	pad := append([]byte{0x80}, make([]byte, (119-len(d.buf)%64)%64)...)
	pad = binary.BigEndian.AppendUint64(pad, d.n*8)
	_, _ = c.Write(pad) // never fails
	for _, w := range c.v {
		in = binary.BigEndian.AppendUint32(in, w)
	}
	return in
}

func (d *sm3) block(p []byte) {
	var w [68]uint32
	for i := range 16 {
		w[i] = binary.BigEndian.Uint32(p[4*i:])
	}
	for i := 16; i < 68; i++ {
		x := w[i-16] ^ w[i-9] ^ bits.RotateLeft32(w[i-3], 15)
		w[i] = x ^ bits.RotateLeft32(x, 15) ^ bits.RotateLeft32(x, 23) ^ bits.RotateLeft32(w[i-13], 7) ^ w[i-6]
	}
	a, b, c, e0 := d.v[0], d.v[1], d.v[2], d.v[3]
	e, f, g, h := d.v[4], d.v[5], d.v[6], d.v[7]
	for j := range 64 {
		t := uint32(0x79cc4519)
		if j >= 16 {
			t = 0x7a879d8a
		}
		ss1 := bits.RotateLeft32(bits.RotateLeft32(a, 12)+e+bits.RotateLeft32(t, j%32), 7)
		ss2 := ss1 ^ bits.RotateLeft32(a, 12)
		ff, gg := a^b^c, e^f^g
		if j >= 16 {
			ff, gg = a&b|a&c|b&c, e&f|^e&g
		}
		tt1 := ff + e0 + ss2 + (w[j] ^ w[j+4])
		tt2 := gg + h + ss1 + w[j]
		e0, c, b, a = c, bits.RotateLeft32(b, 9), a, tt1
		h, g, f, e = g, bits.RotateLeft32(f, 19), e, tt2^bits.RotateLeft32(tt2, 9)^bits.RotateLeft32(tt2, 17)
	}
	for i, x := range [8]uint32{a, b, c, e0, e, f, g, h} {
		d.v[i] ^= x
	}
}
