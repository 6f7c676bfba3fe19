package measure

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// header makes one of 0x280 bytes, as images with one key slot have.
func header() []byte {
	b := make([]byte, 0x280)
	copy(b, "IBMSecEx")
	be := binary.BigEndian
	be.PutUint32(b[8:], 0x100)
	be.PutUint32(b[12:], 0x280)
	be.PutUint64(b[0x20:], 1)
	be.PutUint64(b[0x38:], 1<<29)
	for i := range 64 {
		b[0xe0+i], b[0x120+i], b[0x160+i] = 1, 2, 3
	}
	for i := range 16 {
		b[0x270+i] = 4
	}
	return b
}

func image(at int, meta func([]byte)) []byte {
	b := make([]byte, 0x20000)
	copy(b[at:], header())
	if meta != nil {
		meta(b[0xc000:])
	}
	return b
}

// metadata that IBM's library writes for header 0x14000 and boot block 0x16000 (its test).
var metadata = []byte{83, 101, 73, 109, 103, 76, 110, 120, 0, 0, 0, 0, 0, 1, 64, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 96, 0}

func TestReadHeader(t *testing.T) {
	for name, b := range map[string][]byte{
		"header alone": header(), "at a page": image(0x12000, nil), "by metadata": image(0x14000, func(m []byte) { copy(m, metadata) }),
	} {
		h, err := ReadHeader(bytes.NewReader(b))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		tags := h.Tags
		if tags.PLD[0] != 1 || tags.ALD[63] != 2 || tags.TLD[0] != 3 || tags.Tag[15] != 4 || len(tags.Bytes()) != 208 || h.Keys != 1 || !h.AllowsDump() {
			t.Errorf("%s: %+v", name, h)
		}
	}
	for name, b := range map[string][]byte{
		"empty": nil, "cut": header()[:0x27f], "shifted": append([]byte{0}, header()...), "not at a page": image(0x12008, nil), "too far": image(0x15000, nil),
		"metadata elsewhere":    image(0x12000, func(m []byte) { copy(m, metadata) }),
		"metadata of version 2": image(0x14000, func(m []byte) { copy(m, metadata); m[19] = 2 }),
		"metadata far out":      image(0x14000, func(m []byte) { copy(m, metadata); m[8] = 0x7f }),
		"version":               func() []byte { b := header(); b[10] = 2; return b }(),
		"size":                  func() []byte { b := header(); b[12] = 1; return b }(),
	} {
		if _, err := ReadHeader(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzReadHeader(f *testing.F) {
	f.Add(header())
	f.Add(append(append(make([]byte, 0xc000), metadata...), make([]byte, 100)...))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = ReadHeader(bytes.NewReader(b)) })
}
