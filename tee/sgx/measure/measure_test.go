package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// stream is the SGXS form of an enclave: a thread control structure, a page of
// code with its first and last chunk measured, and a page of unmeasured heap.
// What is measured of it is, by the format's own definition, the SHA-256 of all
// but the unmeasured chunks.
func stream(code []byte) (sgxs, measured []byte) {
	rec := func(name string, a, b uint64) []byte {
		r := make([]byte, 64)
		copy(r, name)
		binary.LittleEndian.PutUint64(r[8:], a)
		binary.LittleEndian.PutUint64(r[16:], b)
		return r
	}
	create := make([]byte, 64)
	copy(create, "ECREATE")
	binary.LittleEndian.PutUint32(create[8:], 1)
	binary.LittleEndian.PutUint64(create[12:], 0x4000)
	sgxs = bytes.Clone(create)
	sgxs = append(sgxs, rec("EADD", 0, TCS)...)
	for i := range uint64(16) {
		sgxs = append(sgxs, rec("EEXTEND", i*ChunkSize, 0)...)
		sgxs = append(sgxs, make([]byte, ChunkSize)...)
	}
	sgxs = append(sgxs, rec("EADD", 0x1000, Regular|Read|Exec)...)
	sgxs = append(append(sgxs, rec("EEXTEND", 0x1000, 0)...), code[:ChunkSize]...)
	measured = bytes.Clone(sgxs)
	sgxs = append(append(sgxs, rec("UNMEASRD", 0x1100, 0)...), code[ChunkSize:2*ChunkSize]...)
	tail := append(rec("EEXTEND", 0x1f00, 0), code[PageSize-ChunkSize:]...)
	tail = append(tail, rec("EADD", 0x2000, Regular|Read|Write)...)
	return append(sgxs, tail...), append(measured, tail...)
}

func TestMREnclave(t *testing.T) {
	code := bytes.Repeat([]byte{0x90, 0xc3, 0xcc, 1}, PageSize/4)
	sgxs, measured := stream(code)
	want := sha256.Sum256(measured)
	got, err := FromSGXS(bytes.NewReader(sgxs))
	if err != nil || got != want {
		t.Errorf("SGXS: %x, %v, want %x", got, err, want)
	}
	b, err := New(0x4000, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []Page{
		{Offset: 0, Flags: TCS, Measured: AllChunks}, {Offset: 0x1000, Flags: Regular | Read | Exec, Data: code, Measured: 1 | 1<<15},
		{Offset: 0x2000, Flags: Regular | Read | Write},
	} {
		if err := b.Add(&p); err != nil {
			t.Fatal(err)
		}
	}
	if b.MREnclave() != want {
		t.Errorf("pages: %x, want %x", b.MREnclave(), want)
	}
}

// The empty enclave of the smallest size: the SHA-256 of the one record, spelled out.
func TestECREATE(t *testing.T) {
	b, err := New(0x2000, 1)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := hex.DecodeString("4543524541544500" + "01000000" + "0020000000000000")
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(append(rec, make([]byte, 44)...)); b.MREnclave() != want {
		t.Errorf("%x, want %x", b.MREnclave(), want)
	}
}

func TestWhatTheCPURefuses(t *testing.T) {
	for name, size := range map[string]uint64{"no power of two": 0x3000, "too small": 0x1000, "too large": MaxSize << 1} {
		if _, err := New(size, 1); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(0x4000, 0); err == nil {
		t.Error("no SSA frame: accepted")
	}
	b, err := New(0x4000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(&Page{Offset: 0x1000, Flags: Regular | Read}); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]Page{
		"twice": {Offset: 0x1000, Flags: Regular | Read}, "unaligned": {Offset: 0x10, Flags: Regular | Read}, "outside": {Offset: 0x4000, Flags: Regular | Read},
		"no type": {Offset: 0, Flags: Read}, "TCS with permissions": {Offset: 0, Flags: TCS | Read}, "write only": {Offset: 0, Flags: Regular | Write},
		"unknown flag": {Offset: 0, Flags: Regular | Read | 1<<5}, "short": {Offset: 0, Flags: Regular | Read, Data: []byte{1}},
	} {
		if err := b.Add(&p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestBentSGXS(t *testing.T) {
	sgxs, _ := stream(make([]byte, PageSize))
	for n := range len(sgxs) {
		if n%64 != 0 {
			if _, err := FromSGXS(bytes.NewReader(sgxs[:n])); err == nil {
				t.Fatalf("cut to %d bytes: accepted", n)
			}
		}
	}
	for name, bend := range map[string]func([]byte){
		"name": func(b []byte) { b[0] = 'X' }, "reserved bytes": func(b []byte) { b[63] = 1 }, "next record": func(b []byte) { b[64] = 'X' },
		"SECINFO": func(b []byte) { b[64+63] = 1 }, "chunk outside its page": func(b []byte) { b[128+9] = 0x20 }, "chunk's reserved bytes": func(b []byte) { b[128+20] = 1 },
	} {
		b := bytes.Clone(sgxs)
		bend(b)
		if _, err := FromSGXS(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzSGXS(f *testing.F) {
	sgxs, _ := stream(make([]byte, PageSize))
	f.Add(sgxs)
	f.Add([]byte("ECREATE\x00"))
	f.Add(outsideEnclave(f))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = FromSGXS(bytes.NewReader(b)) })
}

func BenchmarkPage(b *testing.B) {
	data := make([]byte, PageSize)
	b.SetBytes(PageSize)
	for b.Loop() {
		m, err := New(0x4000, 1)
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Add(&Page{Flags: Regular | Read, Data: data, Measured: AllChunks}); err != nil {
			b.Fatal(err)
		}
		m.MREnclave()
	}
}
