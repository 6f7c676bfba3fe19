package uefi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/ulikunitz/xz/lzma"
)

var app = GUID{1, 2, 3}

// ui is a section with a name.
func ui(name string) []byte { return sectionOf(sectionUI, UTF16Z(name)) }

func sectionOf(typ byte, body []byte) []byte {
	n := 4 + len(body)
	b := append([]byte{byte(n), byte(n >> 8), byte(n >> 16), typ}, body...)
	return append(b, make([]byte, Align(n, 4)-n)...)
}

// fileOf is a file of a volume.
func fileOf(name GUID, typ byte, body []byte) []byte {
	n := 24 + len(body)
	b := make([]byte, 24, Align(n, 8))
	copy(b, name[:])
	b[18], b[20], b[21], b[22] = typ, byte(n), byte(n>>8), byte(n>>16)
	b = append(b, body...)
	return append(b, make([]byte, Align(n, 8)-n)...)
}

// volumeOf holds files, then free space.
func volumeOf(files ...[]byte) []byte {
	b := make([]byte, 56)
	for _, f := range files {
		b = append(b, f...)
	}
	b = append(b, bytes.Repeat([]byte{0xff}, 64)...)
	binary.LittleEndian.PutUint64(b[32:], uint64(len(b)))
	copy(b[40:], "_FVH")
	b[48] = 56
	return b
}

// packed is a section with volumes in it.
func packed(t testing.TB, volumes ...[]byte) []byte {
	t.Helper()
	var plain []byte
	for _, v := range volumes {
		plain = append(plain, sectionOf(sectionVolume, v)...)
	}
	var b bytes.Buffer
	w, err := lzma.WriterConfig{Size: int64(len(plain))}.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return sectionOf(sectionGUIDDefined, append(append(lzmaSection[:], 24, 0, 1, 0), b.Bytes()...))
}

func TestPacked(t *testing.T) {
	first := volumeOf(fileOf(app, 9, ui("Menu")), fileOf(GUID{9}, filePad, []byte{1, 2, 3}))
	b := volumeOf(fileOf(GUID{8}, fileRaw, []byte("no sections")), fileOf(GUID{7}, 11, packed(t, first, volumeOf())))
	v, err := ParseVolume(append(b, "behind it"...))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(v.Bytes, b) {
		t.Errorf("%d bytes, want %d", len(v.Bytes), len(b))
	}
	var inner []*Volume
	for w, err := range v.Packed() {
		if err != nil {
			t.Fatal(err)
		}
		inner = append(inner, w)
	}
	if len(inner) != 2 || !bytes.Equal(inner[0].Bytes, first) {
		t.Fatalf("%d volumes", len(inner))
	}
	if !inner[0].HasDriver("Menu") || inner[0].HasDriver("Men") || inner[1].HasDriver("Menu") {
		t.Error("names of drivers")
	}
	option, err := inner[0].LoadOption(app)
	if err != nil || !bytes.Contains(option, UTF16Z("Menu")) || !bytes.Contains(option, app[:]) {
		t.Errorf("%x, %v", option, err)
	}
	if _, err := inner[1].LoadOption(app); !errors.Is(err, ErrNoFile) {
		t.Errorf("no such file: %v", err)
	}
}

// What is packed and does not fit is an error, and the last thing that comes.
func TestPackedBent(t *testing.T) {
	section := packed(t, volumeOf())
	for name, bend := range map[string]func(b []byte){
		"another packing": func(b []byte) { b[4]++ }, "data offset": func(b []byte) { b[20] = 255 }, "dictionary": func(b []byte) { b[28] = 255 },
		"size too large": func(b []byte) { b[24+5+4] = 1 }, "size one less": func(b []byte) { b[24+5]-- }, "data": func(b []byte) { b[24+13+5] ^= 0x55 },
	} {
		s := bytes.Clone(section)
		bend(s)
		v, err := ParseVolume(volumeOf(fileOf(GUID{7}, 11, append(s, section...))))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range v.Packed() {
			n++
			err = e
		}
		if n != 1 || err == nil {
			t.Errorf("%s: %d volumes, %v", name, n, err)
		}
	}
}

func FuzzVolume(f *testing.F) {
	v := make([]byte, 256)
	binary.LittleEndian.PutUint64(v[32:], uint64(len(v)))
	copy(v[40:], "_FVH")
	v[48] = 72
	v[72+20], v[72+4+20] = 40, 0
	f.Add(v)
	f.Add(volumeOf(fileOf(app, 9, ui("A"))))
	f.Add(volumeOf(fileOf(app, 9, packed(f, volumeOf(fileOf(app, 9, ui("A")))))))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _, _ = VariableStore(b)
		v, err := ParseVolume(b)
		if err != nil {
			return
		}
		v.HasDriver("x")
		_, _ = v.LoadOption(app)
		for w, err := range v.Packed() {
			if err == nil {
				w.HasDriver("x")
				_, _ = w.LoadOption(app)
			}
		}
	})
}
