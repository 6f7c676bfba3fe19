package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/cofferproject/coffer/test/vectors"
)

type mrtdVector struct {
	Firmware string `json:"firmware"`
	SHA256   string `json:"sha256"`
	ByPage   string `json:"mrtd_page_by_page"`
	TwoPass  string `json:"mrtd_two_pass"`
	Sections []struct {
		DataOffset uint32 `json:"data_offset"`
		RawSize    uint32 `json:"raw_size"`
		GPA        uint64 `json:"gpa"`
		MemSize    uint64 `json:"mem_size"`
		Type       uint32 `json:"type"`
		Attributes uint32 `json:"attributes"`
	} `json:"sections"`
}

func mrtdVectors(t testing.TB) (string, []mrtdVector) {
	dir := vectors.Dir(t, "measure")
	b, err := os.ReadFile(filepath.Join(dir, "tdx-mrtd.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Vectors []mrtdVector `json:"vectors"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return dir, v.Vectors
}

// firmware gives the image of a vector, from the vectors or from where a
// developer unpacked the package (COFFER_TDVF).
func firmware(t testing.TB, dir, name, sum string) []byte {
	t.Helper()
	if b, ok := images[name]; ok {
		return bytes.Clone(b)
	}
	b := readFirmware(t, dir, name, sum)
	images[name] = b
	return bytes.Clone(b)
}

var images = map[string][]byte{} // unpacking takes a while

func readFirmware(t testing.TB, dir, name, sum string) []byte {
	t.Helper()
	var b []byte
	if f, err := os.Open(filepath.Join(dir, name+".xz")); err == nil {
		defer f.Close()
		r, err := xz.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(io.LimitReader(r, MaxFirmware)); err != nil {
			t.Fatal(err)
		}
	} else if b, err = os.ReadFile(filepath.Join(os.Getenv("COFFER_TDVF"), name)); err != nil {
		t.Skipf("no image of %s: neither among the vectors nor in COFFER_TDVF", name)
	}
	if got := sha256.Sum256(b); hex.EncodeToString(got[:]) != sum {
		t.Fatalf("%s has SHA-256 %x, want %s", name, got, sum)
	}
	return b
}

// The figures of an implementation that is independent of the project.
func TestMRTDVectors(t *testing.T) {
	dir, vs := mrtdVectors(t)
	ran := 0
	for _, v := range vs {
		t.Run(v.Firmware, func(t *testing.T) {
			fw := firmware(t, dir, v.Firmware, v.SHA256)
			ran++
			ss, err := sections(fw)
			if err != nil {
				t.Fatal(err)
			}
			if len(ss) != len(v.Sections) {
				t.Fatalf("%d sections, want %d", len(ss), len(v.Sections))
			}
			for i, w := range v.Sections {
				if ss[i] != (Section{w.DataOffset, w.RawSize, w.GPA, w.MemSize, SectionType(w.Type), w.Attributes}) {
					t.Errorf("section %d is %+v, want %+v", i, ss[i], w)
				}
			}
			if got := mrtd(fw, ss, false).String(); got != v.ByPage {
				t.Errorf("MRTD %s, want %s", got, v.ByPage)
			}
			if got := mrtd(fw, ss, true).String(); got != v.TwoPass {
				t.Errorf("two passes: MRTD %s, want %s", got, v.TwoPass)
			}
			if got, err := MRTD(fw); err != nil || got.String() != v.ByPage {
				t.Errorf("MRTD %s, want %s: %v", got, v.ByPage, err)
			}
		})
	}
	if ran < 2 {
		t.Errorf("only %d images", ran)
	}
}

// One bit in what is measured changes the digest; in what is not, it does not.
func TestMRTDCoversTheCode(t *testing.T) {
	fw := testFirmware(t)
	was, err := MRTD(fw)
	if err != nil {
		t.Fatal(err)
	}
	ss, err := sections(fw)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range ss {
		if s.RawSize == 0 {
			continue
		}
		bent := bytes.Clone(fw)
		bent[s.DataOffset+100] ^= 1
		got, err := MRTD(bent)
		if err != nil {
			t.Fatal(err)
		}
		if changed := got != was; changed != (s.Attributes == 1) {
			t.Errorf("section of type %d, attributes %d: changed is %v", s.Type, s.Attributes, changed)
		}
	}
}

func testFirmware(t testing.TB) []byte {
	dir, vs := mrtdVectors(t)
	return firmware(t, dir, vs[0].Firmware, vs[0].SHA256)
}

func TestBentMetadata(t *testing.T) {
	fw := testFirmware(t)
	if _, err := sections(fw); err != nil {
		t.Fatal(err)
	}
	off, err := metadataOffset(fw)
	if err != nil {
		t.Fatal(err)
	}
	bad := 0
	for i := int64(0); i < 16+32*6; i++ {
		fw[off+i] ^= 0xff
		if ss, err := sections(fw); err != nil {
			bad++
		} else if i%16 == 0 {
			_ = mrtd(fw, ss, false)
		}
		fw[off+i] ^= 0xff
	}
	if bad < 100 {
		t.Errorf("only %d of %d bends are refused", bad, 16+32*6)
	}
	for _, b := range [][]byte{nil, make([]byte, 31), make([]byte, 4096), fw[:len(fw)-1], fw[1:]} {
		if _, err := MRTD(b); err == nil && len(b) != len(fw)-1 {
			t.Errorf("%d bytes are measured", len(b))
		}
	}
}

func FuzzSections(f *testing.F) {
	// A small image: metadata, table, reset vector.
	fw := make([]byte, 3*pageSize)
	end := len(fw) - 32
	copy(fw[end-16:], guidFooter[:])
	fw[end-18] = 40
	copy(fw[end-34:], guidTDX[:])
	fw[end-36] = 22
	off := len(fw) - 512
	fw[end-40], fw[end-39] = byte(512&0xff), byte(512>>8)
	copy(fw[off:], "TDVF")
	copy(fw[off+4:], []byte{48, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0})
	copy(fw[off+16:], []byte{0, 0, 0, 0, 0, 16, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0})
	if _, err := sections(fw); err != nil {
		f.Fatal(fmt.Errorf("the seed: %w", err))
	}
	f.Add(fw[len(fw)-512:])
	f.Fuzz(func(t *testing.T, tail []byte) {
		b := append(make([]byte, 3*pageSize), tail...)
		ss, err := sections(b)
		if err != nil {
			return
		}
		for _, s := range ss {
			if s.MemSize > 1<<20 {
				return // slow, not wrong
			}
		}
		_ = mrtd(b, ss, false)
		_, _ = tdHOB(1024, ss)
	})
}

func BenchmarkMRTD(b *testing.B) {
	fw := testFirmware(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := MRTD(fw); err != nil {
			b.Fatal(err)
		}
	}
}
