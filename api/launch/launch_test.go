package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A TEE that loads an image takes nothing else, and the others take no image: a
// file that is not measured must not look as if it were.
func TestValidateImage(t *testing.T) {
	f := File{Path: "f"}
	for want, s := range map[string]Spec{
		"":                      {TEE: SGX, Image: f, SGX: &SGXParams{Sigstruct: f}},
		"image: missing":        {TEE: SE},
		"se loads its image":    {TEE: SE, Image: f, Kernel: f},
		"sgx loads its image":   {TEE: SGX, Image: f, Cmdline: "x"},
		"snp boots a kernel":    {TEE: SNP, Kernel: f, Image: f},
		"kernel: missing":       {TEE: SNP},
		"sgx: se takes none":    {TEE: SE, Image: f, SGX: &SGXParams{}},
		"se: tdx takes none":    {TEE: TDX, Kernel: f, SE: &SEParams{}},
		"vcpus: 0 is not":       {TEE: SE, Image: f, VCPUs: -1},
		"tee: missing":          {},
		"snp: sgx takes none":   {TEE: SGX, Image: f, SNP: &SNPParams{}},
		"memory_mib: 300 is no": {TEE: SNP, Kernel: f, MemoryMiB: 300},
	} {
		s.VCPUs++
		if s.MemoryMiB == 0 {
			s.MemoryMiB = 256
		}
		err := s.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", s, err, want)
		}
	}
}

func TestValidateDisks(t *testing.T) {
	file, scratch := Disk{Serial: "vol-0123456789abcdef", Path: "/disk"}, Disk{Serial: "vol-claim-1", Bytes: 1 << 30}
	with := func(d Disk, change func(*Disk)) []Disk { change(&d); return []Disk{d} }
	for want, disks := range map[string][]Disk{
		"":                          {file, scratch},
		"comes twice":               {file, file},
		"at most 8":                 make([]Disk, MaxDisks+1),
		"disks[0].serial: \"a,b\"":  with(file, func(d *Disk) { d.Serial = "a,b" }),
		"is not 1 to 20 letters":    with(file, func(d *Disk) { d.Serial = "vol-0123456789abcdef0" }),
		"is no absolute path":       with(file, func(d *Disk) { d.Path = "disk" }),
		"exactly one of path":       with(file, func(d *Disk) { d.Bytes = 1 }),
		"disks[0]: exactly one of ": with(file, func(d *Disk) { d.Path = "" }),
		"bytes: -1 is not":          with(scratch, func(d *Disk) { d.Bytes = -1 }),
		"is not between 1 and":      with(scratch, func(d *Disk) { d.Bytes = MaxDiskBytes + 1 }),
	} {
		s := Spec{TEE: SNP, Kernel: File{Path: "f"}, VCPUs: 1, MemoryMiB: 256, Disks: disks}
		err := s.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", disks, err, want)
		}
	}
	s := Spec{TEE: SGXSim, Kernel: File{Path: "f"}, Initrd: File{Path: "f"}, VCPUs: 1, MemoryMiB: 256, Disks: []Disk{file}}
	if err := s.Validate(); err != nil {
		t.Errorf("a process with a file: %v", err)
	}
	s.Disks = []Disk{scratch}
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "sgx-sim is in memory alone") {
		t.Errorf("a process with a disk that ends with it: %v", err)
	}
}

func TestFileRead(t *testing.T) {
	p := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(p, []byte("kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	const sum = "21b9b0e2e90ed3c1c8a4eb1a0d50e9eb2a87a3d0e1f4b7d7a4ae5a6a1dcb3d5c"
	for _, own := range []string{"", "6923dd1bc0460082c5d55a831908c24a282860b7f1cd6c2b79cf1bc8857c639c"} {
		if b, err := (File{Path: p, SHA256: own}).Read(6); err != nil || string(b) != "kernel" {
			t.Errorf("%q, %v", b, err)
		}
	}
	for want, f := range map[string]func() ([]byte, error){
		"longer than 5":  func() ([]byte, error) { return File{Path: p}.Read(5) },
		"not " + sum:     func() ([]byte, error) { return File{Path: p, SHA256: sum}.Read(6) },
		"no such file":   func() ([]byte, error) { return File{Path: p + "x"}.Read(6) },
		"empty, or":      func() ([]byte, error) { return File{Path: os.DevNull}.Read(6) },
		"is a directory": func() ([]byte, error) { return File{Path: filepath.Dir(p)}.Read(6) },
	} {
		if b, err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q, %v, want %q", b, err, want)
		}
	}
}
