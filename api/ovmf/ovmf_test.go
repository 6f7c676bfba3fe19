package ovmf

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/cofferproject/coffer/test/vectors"
)

// TestPublishedImages reads images of others: one for SEV with room for hashes, one
// with an empty table, one for TDX.
func TestPublishedImages(t *testing.T) {
	dir := vectors.Dir(t, "measure")
	for name, want := range map[string]Abilities{
		"OVMF.amdsev.fd.xz":       {KernelHashes: true, SNP: true, TDX: true},
		"ovmf_AmdSev_suffix.bin":  {KernelHashes: true, SNP: true, TDX: true},
		"ovmf_OvmfX64_suffix.bin": {SNP: true, TDX: true},
		"OVMF.inteltdx.ms.fd.xz":  {SNP: true, TDX: true},
	} {
		a, err := ReadAbilities(image(t, filepath.Join(dir, name)))
		if err != nil || a != want {
			t.Errorf("%s: %+v, %v; want %+v", name, a, err, want)
		}
	}
}

func image(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if filepath.Ext(path) == ".xz" {
		if r, err = xz.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// table makes an image of entries, the first lowest.
func table(entries ...[]byte) []byte {
	body := slices.Concat(entries...)
	body = binary.LittleEndian.AppendUint16(body, uint16(len(body)+entryHead))
	body = append(body, footer[:]...)
	return append(append(make([]byte, 64), body...), make([]byte, resetVector)...)
}

func entry(id GUID, data ...byte) []byte {
	data = binary.LittleEndian.AppendUint16(data, uint16(len(data)+entryHead))
	return append(data, id[:]...)
}

func TestWalkRefuses(t *testing.T) {
	room := []byte{0, 0xc, 0x81, 0, 0, 4, 0, 0}
	if a, err := ReadAbilities(table(entry(SEVHashTable, room...))); err != nil || !a.KernelHashes {
		t.Fatalf("%+v, %v", a, err)
	}
	short := entry(SEVHashTable, room...)
	binary.LittleEndian.PutUint16(short[8:], 17)
	long := entry(SEVHashTable, room...)
	binary.LittleEndian.PutUint16(long[8:], 400)
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"no footer":       make([]byte, 4096),
		"twice":           table(entry(SEVHashTable, room...), entry(SEVHashTable, room...)),
		"entry too short": table(short),
		"entry too long":  table(long),
		"no whole entry":  table([]byte{1, 2, 3}),
		"short data":      table(entry(SEVHashTable, 1, 2)),
	} {
		if _, err := ReadAbilities(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, data := range map[string][]byte{"empty": make([]byte, 8), "small": {0, 0xc, 0x81, 0, 16, 0, 0, 0}} {
		if a, err := ReadAbilities(table(entry(SEVHashTable, data...))); err != nil || a.KernelHashes {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

func FuzzReadAbilities(f *testing.F) {
	f.Add(table(entry(SEVHashTable, 0, 0xc, 0x81, 0, 0, 4, 0, 0), entry(TDXMetadata, 1, 0, 0, 0)))
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := ReadAbilities(b); err != nil && a != (Abilities{}) {
			t.Errorf("%+v with %v", a, err)
		}
	})
}
