package devmapper

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// The layout of struct dm_target_spec in Linux's dm-ioctl.h: u64 sector_start, u64
// length, s32 status, u32 next, char target_type[16], and then the parameters.
func TestEncode(t *testing.T) {
	b := encode(Target{Type: "crypt", Sectors: 0x1122334455, Params: []byte("cipher key 0 /dev/vdb 0")})
	if len(b)%8 != 0 || headerSize != 312 || specSize != 40 {
		t.Fatalf("%d bytes, header %d, specification %d", len(b), headerSize, specSize)
	}
	if n := binary.LittleEndian.Uint64(b[8:]); n != 0x1122334455 {
		t.Errorf("length %#x", n)
	}
	if !bytes.Equal(b[:8], make([]byte, 8)) || !bytes.Equal(b[16:24], make([]byte, 8)) {
		t.Errorf("%x", b[:24])
	}
	if got := string(bytes.TrimRight(b[24:40], "\x00")); got != "crypt" {
		t.Errorf("type %q", got)
	}
	if got := string(bytes.TrimRight(b[40:], "\x00")); got != "cipher key 0 /dev/vdb 0" || b[len(b)-1] != 0 {
		t.Errorf("parameters %q", got)
	}
	if got := encode(Target{Type: "a-type-that-is-too-long-by-far"})[24:40]; got[15] != 0 {
		t.Errorf("type without its NUL: %q", got)
	}
}
