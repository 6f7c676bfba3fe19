package bzimage

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// image makes a bzImage around a packed payload.
func image(payload []byte) []byte {
	const setupSects = 2
	b := make([]byte, (setupSects+1)*512)
	b[offSetupSects] = setupSects
	copy(b[offHeaderMagic:], "HdrS")
	const offset = 64
	binary.LittleEndian.PutUint32(b[offPayloadOffset:], offset)
	binary.LittleEndian.PutUint32(b[offPayloadLength:], uint32(len(payload)+4))
	b = append(b, make([]byte, offset)...)
	b = append(b, payload...)
	return append(b, 1, 2, 3, 4, 0xee) // size field, and something after the payload
}

func packed(t testing.TB, elf []byte) map[string][]byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var x bytes.Buffer
	w, err := xz.NewWriter(&x)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(elf); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"zstd": z.EncodeAll(elf, nil), "xz": x.Bytes()}
}

func TestExtractELF(t *testing.T) {
	elf := append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel"), 1000)...)
	for name, p := range packed(t, elf) {
		got, err := ExtractELF(image(p))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(got, elf) {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(elf))
		}
	}
}

func TestExtractELFRefuses(t *testing.T) {
	good := image(packed(t, []byte("\x7fELFxxxx"))["zstd"])
	long := bytes.Clone(good)
	binary.LittleEndian.PutUint32(long[offPayloadLength:], 0xfffffff0)
	for name, b := range map[string][]byte{
		"empty":             nil,
		"no header":         make([]byte, 4096),
		"cut":               good[:len(good)-20],
		"payload outside":   long,
		"unknown packing":   image(make([]byte, 64)),
		"not an ELF inside": image(packed(t, bytes.Repeat([]byte("no ELF"), 20))["zstd"]),
	} {
		if _, err := ExtractELF(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzExtractELF(f *testing.F) {
	for _, p := range packed(f, []byte("\x7fELFsome kernel")) {
		f.Add(image(p))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if elf, err := ExtractELF(b); err == nil && !bytes.HasPrefix(elf, magicELF) {
			t.Error("not an ELF image")
		}
	})
}
