package measure

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
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

// What would leave something unmeasured, or is not known, is refused.
func TestRefused(t *testing.T) {
	amd, plain := image(t, "ovmf_AmdSev_suffix.bin"), image(t, "ovmf_OvmfX64_suffix.bin")
	kernel := HashKernel([]byte("kernel"), nil, "")
	good := Input{TEE: launch.SNP, Firmware: amd, Kernel: kernel, VCPUs: 1, Signature: 1, Features: 1}
	if _, err := Launch(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Input){
		"a kernel, and a firmware without a hash table": func(i *Input) { i.Firmware = plain },
		"the same under SEV":                            func(i *Input) { i.Firmware, i.TEE, i.Features = plain, launch.SEV, 0 },
		"an empty hash table":                           func(i *Input) { i.Firmware = bend(amd, hashEntry(t, amd), 0) },
		"a hash table outside its page":                 func(i *Input) { i.Firmware = bend(amd, hashEntry(t, amd)+1, 0x40) },
		"a kernel on EC2":                               func(i *Input) { i.VMM = firmware.EC2 },
		"an unknown VMM":                                func(i *Input) { i.VMM = "xen" },
		"no vCPU":                                       func(i *Input) { i.VCPUs = 0 },
		"too many vCPUs":                                func(i *Input) { i.VCPUs = MaxVCPUs + 1 },
		"SNP without its feature":                       func(i *Input) { i.Features = 0x20 },
		"features under SEV-ES":                         func(i *Input) { i.TEE = launch.SEVES },
		"another TEE":                                   func(i *Input) { i.TEE = launch.TDX },
		"no firmware":                                   func(i *Input) { i.Firmware = nil },
		"a firmware that is none":                       func(i *Input) { i.Firmware = make([]byte, 4096) },
		"half a page":                                   func(i *Input) { i.Firmware = amd[2048:] },
	} {
		in := good
		change(&in)
		if d, err := Launch(in); err == nil {
			t.Errorf("%s: %x", name, d)
		}
	}
}

// hashEntry finds the entry of the hash table: base and size before the entry's
// own length and GUID.
func hashEntry(t testing.TB, fw []byte) int {
	t.Helper()
	id, err := hex.DecodeString("1f3755723b3a044b927b1da6efa8d454")
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(fw, id)
	if i < 0 {
		t.Fatal("no hash table")
	}
	return i - 10
}

// bend sets the four bytes of a table's base, or one byte.
func bend(fw []byte, at int, v byte) []byte {
	b := bytes.Clone(fw)
	if v == 0 {
		clear(b[at : at+4])
	} else {
		b[at] ^= v
	}
	return b
}

// Every input moves the digest.
func TestEveryInputCounts(t *testing.T) {
	base := Input{TEE: launch.SNP, Firmware: image(t, "ovmf_AmdSev_suffix.bin"), Kernel: HashKernel([]byte("k"), []byte("i"), "c"), VCPUs: 2, Signature: 0x800f12, Features: 1}
	seen := map[string]string{}
	for name, change := range map[string]func(*Input){
		"nothing": func(*Input) {}, "kernel": func(i *Input) { i.Kernel = HashKernel([]byte("K"), []byte("i"), "c") },
		"initrd": func(i *Input) { i.Kernel = HashKernel([]byte("k"), []byte("I"), "c") }, "no initrd": func(i *Input) { i.Kernel = HashKernel([]byte("k"), nil, "c") },
		"cmdline": func(i *Input) { i.Kernel = HashKernel([]byte("k"), []byte("i"), "c ") }, "no kernel": func(i *Input) { i.Kernel = nil },
		"vcpus": func(i *Input) { i.VCPUs = 3 }, "model": func(i *Input) { i.Signature++ }, "features": func(i *Input) { i.Features = 33 },
		"firmware": func(i *Input) { i.Firmware = bend(i.Firmware, 3000, 1) },
	} {
		in := base
		change(&in)
		d, err := Launch(in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if other, ok := seen[string(d)]; ok {
			t.Errorf("%s and %s give one digest", name, other)
		}
		seen[string(d)] = name
	}
}

func TestFromSpec(t *testing.T) {
	v, dir := load(t), t.TempDir()
	put := func(name string, b []byte) launch.File {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := sha256.Sum256(b)
		return launch.File{Path: p, SHA256: hex.EncodeToString(s[:])}
	}
	spec := launch.Spec{
		TEE: launch.SNPSim, TEEFirmware: put("fw", image(t, "OVMF.amdsev.fd")), Firmware: launch.File{Path: "/another"},
		Kernel: put("kernel", blob("kernel-a", v.Files["kernel-a"].Size)), Initrd: put("initrd", blob("initrd-a", v.Files["initrd-a"].Size)),
		Cmdline: "console=ttyS0 quiet panic=-1", VCPUs: 1, MemoryMiB: 512,
	}
	in, err := FromSpec(&spec)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := Launch(in); err != nil || hex.EncodeToString(d) != "9ee6c7de3f483a53ff3bc753601fe2cda9582936b459cf36a2c4ef0377c746606700f65b8cca870d54ee0fd8fa3d3ff6" {
		t.Errorf("%x, %v", d, err)
	}
	for name, change := range map[string]func(*launch.Spec){
		"another kernel than named":   func(s *launch.Spec) { s.Kernel.SHA256 = s.Initrd.SHA256 },
		"simulated w/o TEE firmware":  func(s *launch.Spec) { s.TEEFirmware = launch.File{} },
		"no such file":                func(s *launch.Spec) { s.Initrd.Path = "/nonexistent" },
		"another TEE":                 func(s *launch.Spec) { s.TEE = launch.TDX },
		"unknown CPU model":           func(s *launch.Spec) { s.CPUModel = "Skylake-Server" },
		"unknown VMM":                 func(s *launch.Spec) { s.SNP = &launch.SNPParams{VMM: "xen"} },
		"no rung of the memory sizes": func(s *launch.Spec) { s.MemoryMiB = 100 },
	} {
		s := spec
		change(&s)
		if _, err := FromSpec(&s); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestIDBlock(t *testing.T) {
	id, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	author, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	in := Input{TEE: launch.SNP, Firmware: image(t, "ovmf_AmdSev_suffix.bin"), VCPUs: 1, Signature: 0x800f12, Features: 1}
	b, err := NewIDBlock(in, launch.DefaultSNPPolicy, 7, [16]byte{1}, [16]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	if len(raw) != IDBlockSize || hex.EncodeToString(raw[48:]) != "01000000000000000000000000000000"+"02000000000000000000000000000000"+"01000000"+"07000000"+"0000030000000000" {
		t.Errorf("block %x", raw)
	}
	a, err := b.Auth(id, author)
	if err != nil || len(a) != IDAuthSize {
		t.Fatalf("%d bytes, %v", len(a), err)
	}
	for name, c := range map[string]struct {
		key      *ecdsa.PublicKey
		sig, pub int
		msg      []byte
	}{"ID key": {&id.PublicKey, 0x40, 0x240, raw}, "author key": {&author.PublicKey, 0x680, 0x880, a[0x240 : 0x240+keySize]}} {
		r, s := new(big.Int).SetBytes(reversed(a[c.sig:c.sig+72])), new(big.Int).SetBytes(reversed(a[c.sig+72:c.sig+144]))
		sum := sha512.Sum384(c.msg)
		if !ecdsa.Verify(c.key, sum[:], r, s) {
			t.Errorf("%s: signature does not verify", name)
		}
		d, err := KeyDigest(c.key)
		if err != nil || d != sha512.Sum384(a[c.pub:c.pub+keySize]) {
			t.Errorf("%s: digest, %v", name, err)
		}
	}
	small, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Auth(small, nil); err == nil {
		t.Error("a P-256 key: accepted")
	}
	in.TEE, in.Features = launch.SEV, 0
	if _, err := NewIDBlock(in, 0, 0, [16]byte{}, [16]byte{}); err == nil {
		t.Error("an ID block for SEV")
	}
}

func BenchmarkLaunch(b *testing.B) {
	in := Input{TEE: launch.SNP, Firmware: image(b, "OVMF.amdsev.fd"), Kernel: HashKernel([]byte("k"), nil, ""), VCPUs: 4, Signature: 0x800f12, Features: 1}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Launch(in); err != nil {
			b.Fatal(err)
		}
	}
}
