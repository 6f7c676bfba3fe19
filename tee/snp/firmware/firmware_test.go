package firmware

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/cofferproject/coffer/test/vectors"
)

func suffix(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "measure"), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	m, err := Parse(suffix(t, "ovmf_AmdSev_suffix.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if m.GPA != 0xfffff000 || m.ResetEIP != 0x80b004 || m.HashTable == 0 || len(m.Sections) != 7 || m.Sections[2] != (Section{0x80d000, 0x1000, SectionSecrets}) {
		t.Errorf("got %+v", m)
	}
	if m, err = Parse(suffix(t, "ovmf_OvmfX64_suffix.bin")); err != nil || m.HashTable != 0 {
		t.Errorf("an image that takes no kernel hashes: %+v, %v", m, err)
	}
}

func TestSignature(t *testing.T) {
	for model, want := range map[string]string{"EPYC": "00800f12", "EPYC-v4": "00800f12", "EPYC-IBPB": "00800f12", "EPYC-Rome-v2": "00830f10", "EPYC-Milan": "00a00f11", "EPYC-Genoa-v2": "00a10f10", "EPYC-Turin": "00b00f00"} {
		s, err := Signature(model)
		if got := hex.EncodeToString([]byte{byte(s >> 24), byte(s >> 16), byte(s >> 8), byte(s)}); err != nil || got != want {
			t.Errorf("%s: %s, %v", model, got, err)
		}
	}
	for _, model := range []string{"", "max", "host", "EPYC-", "EPYC-v", "EPYC-vx", "epyc", "EPYC-Naples"} {
		if s, err := Signature(model); err == nil {
			t.Errorf("%q: %#x", model, s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(make([]byte, PageSize))
	if _, err := os.Stat("../../../../shared/vectors/measure"); err == nil {
		f.Add(suffix(f, "ovmf_AmdSev_suffix.bin"))
		f.Add(suffix(f, "ovmf_OvmfX64_suffix.bin"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		var total uint64
		for _, s := range m.Sections {
			if total += s.Size; s.GPA+s.Size > m.GPA || total > maxSection {
				t.Fatalf("%+v", m.Sections)
			}
		}
	})
}
