package measure

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
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
	be.PutUint64(b[0x28:], 0x80)
	be.PutUint64(b[0x38:], 1<<29)
	for i := range 64 {
		b[0xe0+i], b[0x120+i], b[0x160+i] = 1, 2, 3
	}
	for i := range 32 {
		b[0x1a0+i] = 5
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
		if tags.PLD[0] != 1 || tags.ALD[63] != 2 || tags.TLD[0] != 3 || tags.Tag[15] != 4 || len(tags.Bytes()) != 208 || len(h.HostKeys) != 1 || h.HostKeys[0][31] != 5 || !h.AllowsDump() {
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
		"no key slot":           func() []byte { b := header(); b[0x27] = 0; b[0x2f] = 0xd0; return b }(),
		"one more key slot":     func() []byte { b := header(); b[0x27] = 2; return b }(),
		"key slots of 2^64":     func() []byte { b := header(); b[0x20] = 0xff; return b }(),
		"encrypted part":        func() []byte { b := header(); b[0x2f]++; return b }(),
	} {
		if _, err := ReadHeader(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The header and the tags in it that IBM's own library tests itself with.
func TestOutsideHeader(t *testing.T) {
	h, err := ReadHeader(bytes.NewReader(testdata(t, "secure_guest.hdr")))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"PLD": {h.Tags.PLD, "be94b5eab3c1b118c757d7db7ea0f65d9b64823a8dc55bf8a8725b58072d9d4258c53e8a5da82dfb2192d91d07bc1c39b95d6321d3ba16a751a6e3e32f3e0161"},
		"ALD": {h.Tags.ALD, "2858c3368b2a0af0c5ea0fde7905eb15af9cd1dd737165933cdaa2b850b6a8e2f0f42c7b36dd5381096288dc092daa8a6facec2534137bc94ca80bda4fcb9328"},
		"TLD": {h.Tags.TLD, "4860ebcf7b9d24eb909a795356ad32c936b62165988a9ffcd66170dbc590c23010d7952fa882d1bb79558f9be0a549d8d7a94ae720e5c0760a825d479fe67af5"},
		"tag": {h.Tags.Tag, "92309d4589b9a85b427f8753171d1520"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s %s, want %s", name, got, c.want)
		}
	}
	if len(h.HostKeys) != 1 || h.ControlFlags != 0 || h.AllowsDump() {
		t.Errorf("%+v", h)
	}
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzReadHeader(f *testing.F) {
	f.Add(header())
	f.Add(testdata(f, "secure_guest.hdr"))
	f.Add(append(append(make([]byte, 0xc000), metadata...), make([]byte, 100)...))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = ReadHeader(bytes.NewReader(b)) })
}
