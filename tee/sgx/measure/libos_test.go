package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// The digest by the SDM's records, written out once more.
func TestLibraryOS(t *testing.T) {
	manifest := bytes.Repeat([]byte("manifest"), 600) // two pages
	h := sha256.New()
	le := binary.LittleEndian
	record := func(name string, fields ...[]byte) {
		r := make([]byte, 64)
		at := copy(r, name)
		at += (8 - at%8) % 8
		for _, f := range fields {
			at += copy(r[at:], f)
		}
		h.Write(r)
	}
	u32, u64 := func(v uint32) []byte { return le.AppendUint32(nil, v) }, func(v uint64) []byte { return le.AppendUint64(nil, v) }
	record("ECREATE", u32(1), u64(1<<20))
	padded := append(bytes.Clone(manifest), make([]byte, 2*4096-len(manifest))...)
	for page := uint64(0); page < 2; page++ {
		record("EADD", u64(page*4096), u64(0x201))
		for chunk := uint64(0); chunk < 16; chunk++ {
			at := page*4096 + chunk*256
			record("EEXTEND", u64(at))
			h.Write(padded[at : at+256])
		}
	}
	got, err := LibraryOS(manifest)
	if err != nil || !bytes.Equal(got[:], h.Sum(nil)) {
		t.Errorf("%x, %v, want %x", got, err, h.Sum(nil))
	}
	for _, bad := range [][]byte{nil, make([]byte, 1<<20+1)} {
		if _, err := LibraryOS(bad); err == nil {
			t.Errorf("%d bytes: accepted", len(bad))
		}
	}
}
