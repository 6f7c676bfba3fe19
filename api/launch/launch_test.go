package launch

import (
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
