package uefi

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/cofferproject/coffer/tee/tdx/tdxtest"
)

// peImage makes a PE32+ image with two sections out of order, a tail and a
// certificate table.
func peImage(tail, cert int) []byte {
	const (
		peOff   = 64
		optOff  = peOff + 24
		optSize = 112 + 16*8
		headers = 512
	)
	b := make([]byte, headers)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], peOff)
	copy(b[peOff:], "PE\x00\x00")
	le.PutUint16(b[peOff+4:], pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(b[peOff+6:], 2)
	le.PutUint16(b[peOff+20:], optSize)
	le.PutUint16(b[optOff:], 0x20b)
	le.PutUint32(b[optOff+60:], headers)
	copy(b[optOff+64:], "SUM!")
	le.PutUint32(b[optOff+108:], 16)
	copy(b[optOff+112+4*8:], "CERT") // its address; never hashed
	le.PutUint32(b[optOff+112+4*8+4:], uint32(cert))
	sec := optOff + optSize
	for i, s := range [][2]uint32{{100, headers + 200}, {200, headers}} { // size, offset
		le.PutUint32(b[sec+40*i+16:], s[0])
		le.PutUint32(b[sec+40*i+20:], s[1])
	}
	b = append(b, bytes.Repeat([]byte{'b'}, 200)...)
	b = append(b, bytes.Repeat([]byte{'a'}, 100)...)
	b = append(b, bytes.Repeat([]byte{'t'}, tail)...)
	return append(b, bytes.Repeat([]byte{'c'}, cert)...)
}

// authenticode is the SHA-256 digest of an image.
func authenticode(b []byte) ([32]byte, error) {
	p, err := ParsePE(b)
	if err != nil {
		return [32]byte{}, err
	}
	h := sha256.New()
	err = p.Hash(h, b)
	return [32]byte(h.Sum(nil)), err
}

func TestAuthenticode(t *testing.T) {
	for _, c := range []struct{ tail, cert int }{{0, 0}, {33, 0}, {0, 48}, {33, 48}} {
		b := peImage(c.tail, c.cert)
		got, err := authenticode(b)
		if err != nil {
			t.Fatal(err)
		}
		// Everything but checksum, directory entry and certificates, in file
		// order, since the sections lie one after the other.
		want := slices.Concat(b[:64+24+64], b[64+24+68:64+24+112+32], b[64+24+112+40:len(b)-c.cert])
		if got != sha256.Sum256(want) {
			t.Errorf("tail %d, certificates %d: wrong digest", c.tail, c.cert)
		}
	}
}

// Exactly the bytes that are said to be left out can change unseen.
func TestAuthenticodeOfAKernel(t *testing.T) {
	k := tdxtest.Kernel("text behind the sections", 0)
	was, err := authenticode(k)
	if err != nil {
		t.Fatal(err)
	}
	signed := tdxtest.Kernel("text behind the sections", 64)
	if got, err := authenticode(signed); err != nil || got != was {
		t.Errorf("signing changes the digest to %x: %v", got, err)
	}
	const opt = 0x300 + 24
	for i := range k {
		bent := bytes.Clone(k)
		bent[i] ^= 1
		got, err := authenticode(bent)
		free := i >= opt+64 && i < opt+68 || i >= opt+112+32 && i < opt+112+36
		if size := i >= opt+112+36 && i < opt+112+40; err == nil && !size && (got == was) != free {
			t.Errorf("byte %#x: same digest is %v", i, got == was)
		}
	}
}

// A digest is of the image whose layout was read.
func TestHashOfAnotherImage(t *testing.T) {
	p, err := ParsePE(peImage(5, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 100, 5000} {
		if err := p.Hash(sha256.New(), make([]byte, n)); err == nil {
			t.Errorf("%d bytes: hashed", n)
		}
	}
}

func FuzzPE(f *testing.F) {
	f.Add(peImage(5, 8))
	f.Add([]byte("MZ"))
	f.Add(tdxtest.Kernel("x", 0))
	f.Add(tdxtest.Kernel("x", 8))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = authenticode(b) })
}
