// Package launchcases is the one table of launches of TEE hardware that the two
// readers of a LaunchSpec are tested with: host/vmm, which makes a command line of
// it, and tee/*/measure, which predicts what the hardware will measure. Its own
// test reads every command line back and measures what that says, so that the two
// cannot drift apart.
//
// Trust zone: tests only.
package launchcases

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/test/vectors"
)

// Case is one launch.
type Case struct {
	Name string
	Spec launch.Spec
	// Digest is the launch digest of the SEV family over the files of Write, in hex.
	// tee/snp/measure has made it, which vectors from outside bear out; it is here so
	// that command line and calculator cannot change together and unseen.
	Digest string
}

// initdata binds in these launches.
var initdata = []byte("version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n")

// Write gives the case's spec with files that exist: short ones of fixed contents,
// and the last page of a published firmware, which holds all that a launch of the
// SEV family takes from it.
func (c *Case) Write(t testing.TB) *launch.Spec {
	t.Helper()
	firmware, err := os.ReadFile(filepath.Join(vectors.Dir(t, "measure"), "ovmf_AmdSev_suffix.bin"))
	if err != nil {
		t.Fatal(err)
	}
	s, dir := c.Spec, t.TempDir()
	for _, f := range []struct {
		file    *launch.File
		content []byte
	}{
		{&s.TEEFirmware, firmware}, {&s.Kernel, []byte("kernel")}, {&s.Initrd, []byte("initrd")}, {&s.Image, []byte("image")},
	} {
		if f.file.Path == "" {
			continue
		}
		f.file.Path = filepath.Join(dir, f.file.Path)
		if err := os.WriteFile(f.file.Path, f.content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &s
}

// spec gives a launch of firmware and kernel.
func spec(tee launch.TEE, vcpus, mib int, change func(*launch.Spec)) launch.Spec {
	s := launch.Spec{
		TEE: tee, Kernel: launch.File{Path: "kernel"}, Initrd: launch.File{Path: "initrd"}, Cmdline: launch.ConstantCmdline,
		VCPUs: vcpus, MemoryMiB: mib, CPUModel: tee.DefaultCPUModel(),
	}
	if tee.Firmware() != "" {
		s.TEEFirmware = launch.File{Path: "firmware"}
	}
	if tee.BindSize() > 0 {
		s.Initdata = initdata
	}
	if change != nil {
		change(&s)
	}
	return s
}

// Cases gives the table.
func Cases() []Case {
	return []Case{
		{Name: "snp", Digest: "8765d87558c8b204ceca6975fa48312931a085ada9041f85d2261c6f9956ffd549972d4e4344985c57ce12a6de4b85af", Spec: spec(launch.SNP, 2, 512, nil)},
		{Name: "snp-id-block", Digest: "366fe087606a7ea6f3979dcfc887c8a8c844e04ef0b3ff44c111f2b0f57d8c1358a31051f3dc71dfa4ba279a654e6b48", Spec: spec(launch.SNP, 4, 1024, func(s *launch.Spec) {
			s.CPUModel = "EPYC-Milan-v2"
			s.SNP = &launch.SNPParams{Policy: 0x30000, IDBlock: make([]byte, 96), IDAuth: author()}
		})},
		{Name: "snp-gpu", Digest: "1ae5e40cd6a905978ba8f94e33d27bf4e862707cae487b1d253eb99a90658e7fcde10f9491b68eb284c797d9d534df80", Spec: spec(launch.SNP, 8, 32768, func(s *launch.Spec) {
			s.CPUModel, s.HostDevices = "EPYC-Genoa-v2", []string{"0000:65:00.0", "0000:e5:00.0"}
		})},
		{Name: "snp-gpus", Digest: "f66db16014c0a616a4dea064a8353d7e8b106061d0be9edffb49f36e1df7fa48641d7986c9478f5b0be8f6d9e12b914d", Spec: spec(launch.SNP, 16, 32768, func(s *launch.Spec) {
			s.CPUModel, s.HostDevices = "EPYC-Genoa-v2", nil
			for i := range launch.MaxHostDevices {
				s.HostDevices = append(s.HostDevices, fmt.Sprintf("0000:%x1:00.0", i))
			}
		})},
		{Name: "snp-bare", Digest: "bb1c88a1d17e657ce06837ef227bb6182e121885447e5056c87481bab4398a75fed12fe6ec82112baf7e19ac9764d28f", Spec: spec(launch.SNP, 1, 256, func(s *launch.Spec) {
			s.Initrd, s.Initdata, s.CPUModel = launch.File{}, nil, ""
		})},
		{Name: "tdx", Spec: spec(launch.TDX, 2, 512, nil)},
		{Name: "tdx-gpu", Spec: spec(launch.TDX, 2, 4096, func(s *launch.Spec) { s.HostDevices = []string{"0000:65:00.0"} })},
		{Name: "tdx-gpus", Spec: spec(launch.TDX, 4, 8192, func(s *launch.Spec) { s.HostDevices = []string{"0000:65:00.0", "0000:65:00.1", "0001:17:00.0"} })},
		{Name: "cca", Spec: spec(launch.CCA, 2, 1024, nil)},
		{Name: "se", Spec: launch.Spec{TEE: launch.SE, Image: launch.File{Path: "image"}, VCPUs: 2, MemoryMiB: 1024}},
		{Name: "sev", Digest: "5634bbeeb51ba26dcc02c9994b161aca7cfc9d173112363098c90d4ed6337de3", Spec: spec(launch.SEV, 1, 512, nil)},
		{Name: "sev-es-secret", Digest: "22bc65a55065eed24c4001ce4e37367c6ed7cb61c8076d8f98f85e05eafc0486", Spec: spec(launch.SEVES, 2, 512, func(s *launch.Spec) {
			s.SNP = &launch.SNPParams{DHCert: make([]byte, launch.SEVDHCertSize), Session: make([]byte, launch.SEVSessionSize), SecretService: "https://owner.example:8443"}
		})},
	}
}

// author is an ID authentication structure with the mark of an author key.
func author() []byte {
	b := make([]byte, 4096)
	b[0], b[4] = 1, 1
	return b
}
