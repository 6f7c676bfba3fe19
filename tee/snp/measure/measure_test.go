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

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/snp/firmware"
	"github.com/cofferproject/coffer/test/vectors"
)

// blob makes the files of the vectors, as their description says.
func blob(name string, size int) []byte {
	b := make([]byte, 0, size+32)
	for i := 0; len(b) < size; i++ {
		s := sha256.Sum256(fmt.Appendf(nil, "%s:%d", name, i))
		b = append(b, s[:]...)
	}
	return b[:size]
}

func image(t testing.TB, name string) []byte {
	t.Helper()
	dir := vectors.Dir(t, "measure")
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err == nil {
		return b
	}
	f, err := os.Open(filepath.Join(dir, name+".xz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := xz.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = io.ReadAll(r); err != nil {
		t.Fatal(err)
	}
	return b
}

type vector struct {
	Mode, Firmware, CPU    string
	VCPUs                  int
	Kernel, Initrd, Append *string
	Features               uint64 `json:"guest_features"`
	VMM                    string
	Digest                 string `json:"launch_digest"`
}

type vectorFile struct {
	Files map[string]struct {
		Size   int
		SHA256 string
	}
	Firmware map[string]string `json:"firmware_sha256"`
	Vectors  []vector
}

func load(t testing.TB) *vectorFile {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "measure"), "snp.json"))
	if err != nil {
		t.Fatal(err)
	}
	v := new(vectorFile)
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
	for name, f := range v.Files {
		if s := sha256.Sum256(blob(name, f.Size)); hex.EncodeToString(s[:]) != f.SHA256 {
			t.Fatalf("%s is not made as described", name)
		}
	}
	return v
}

func (v *vectorFile) input(t testing.TB, c *vector, images map[string][]byte) Input {
	t.Helper()
	sig, err := firmware.Signature(c.CPU)
	if err != nil {
		t.Fatal(err)
	}
	vmm, err := firmware.ParseVMM(c.VMM)
	if err != nil {
		t.Fatal(err)
	}
	if images[c.Firmware] == nil {
		images[c.Firmware] = image(t, c.Firmware)
		if s := sha256.Sum256(images[c.Firmware]); hex.EncodeToString(s[:]) != v.Firmware[c.Firmware] {
			t.Fatalf("%s is another file", c.Firmware)
		}
	}
	in := Input{
		TEE:      map[string]launch.TEE{"snp": launch.SNP, "seves": launch.SEVES, "sev": launch.SEV}[c.Mode],
		Firmware: images[c.Firmware], VCPUs: c.VCPUs, Signature: sig, Features: c.Features, VMM: vmm,
	}
	if c.Kernel != nil {
		var initrd []byte
		if c.Initrd != nil {
			initrd = blob(*c.Initrd, v.Files[*c.Initrd].Size)
		}
		in.Kernel = HashKernel(blob(*c.Kernel, v.Files[*c.Kernel].Size), initrd, *c.Append)
	}
	return in
}

// The digests of the independent calculator.
func TestPublishedDigests(t *testing.T) {
	v, images := load(t), map[string][]byte{}
	if len(v.Vectors) != 44 {
		t.Fatalf("%d vectors, not 44", len(v.Vectors))
	}
	for i := range v.Vectors {
		c := &v.Vectors[i]
		got, err := Launch(v.input(t, c, images))
		if err != nil || hex.EncodeToString(got) != c.Digest {
			t.Errorf("%d: %s %s %s %s %d vCPUs kernel %v: %x, %v", i, c.Mode, c.Firmware, c.VMM, c.CPU, c.VCPUs, c.Kernel != nil, got, err)
		}
	}
}

var _ = bytes.Equal
