package vmm

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestCommandLine(t *testing.T) {
	p := &platform.Platform{QEMU: platform.QEMU{ArgsPrefix: []string{"-L", "/a", "-L", "/b"}}}
	fds := Paths{
		ROMs: []string{"/dev/fd/3", "/dev/fd/4"}, Kernel: "/dev/fd/5", Initrd: "/dev/fd/6",
		Console: 11, QMP: 10, Channel: 12, TPM: 13, Code: 7, Vars: 8, Initdata: 9,
	}
	for _, c := range []struct {
		name  string
		m     Machine
		spec  launch.Spec
		paths func(Paths) Paths
	}{
		{"tpm-sim", Machine{QEMUMajor: 10}, launch.Spec{
			TEE: launch.TPMSim, Cmdline: launch.ConstantCmdline, VCPUs: 1, MemoryMiB: 256,
		}, nil},
		{"tpm-sim-publish", Machine{QEMUMajor: 10, TBSizeMiB: 128}, launch.Spec{
			TEE: launch.TPMSim, Cmdline: launch.ConstantCmdline, VCPUs: 4, MemoryMiB: 1024,
			Publish: []launch.PortForward{
				{HostPort: 8080, GuestPort: 80, Protocol: "tcp"},
				{HostIP: "0.0.0.0", HostPort: 53, GuestPort: 53, Protocol: "udp"},
			},
		}, nil},
		{"none", Machine{QEMUMajor: 7}, launch.Spec{
			TEE: launch.None, Cmdline: launch.ConstantCmdline, VCPUs: 2, MemoryMiB: 512,
		}, func(p Paths) Paths { p.TPM, p.Code, p.Vars, p.Initdata = 0, 0, 0, 0; return p }},
		{"snp-sim", Machine{QEMUMajor: 10}, launch.Spec{
			TEE: launch.SNPSim, Cmdline: launch.ConstantCmdline, VCPUs: 2, MemoryMiB: 256, CPUModel: "EPYC-v4",
		}, func(p Paths) Paths { p.TPM, p.Code, p.Vars, p.SimHW, p.SimQMP = 0, 0, 0, 15, 16; return p }},
		{"taps", Machine{QEMUMajor: 10}, launch.Spec{
			TEE: launch.TPMSim, Cmdline: launch.ConstantCmdline, VCPUs: 2, MemoryMiB: 512,
		}, func(p Paths) Paths {
			p.Taps, p.NICs = true, []NIC{{FD: 17, MAC: "02:00:00:00:00:01"}, {FD: 18, MAC: "02:00:00:00:00:02"}}
			return p
		}},
		{"no-network", Machine{QEMUMajor: 10}, launch.Spec{
			TEE: launch.TPMSim, Cmdline: launch.ConstantCmdline, VCPUs: 2, MemoryMiB: 512,
		}, func(p Paths) Paths { p.Taps = true; return p }},
		{"disks", Machine{QEMUMajor: 10}, launch.Spec{
			TEE: launch.TPMSim, Cmdline: launch.ConstantCmdline, VCPUs: 2, MemoryMiB: 512,
			Disks: []launch.Disk{{Serial: "vol-3a6eb0790f39ac87", Path: "/dev/sdb"}, {Serial: "vol-claim-0", Path: "/file"}, {Serial: "vol-0000000000000000", Bytes: 1 << 30}},
		}, func(p Paths) Paths { p.Disks = []DiskPath{{21, true}, {22, false}, {23, false}}; return p }},
		{"kvm", Machine{QEMUMajor: 10, KVM: true}, launch.Spec{
			TEE: launch.TPMSim, Cmdline: launch.ConstantCmdline, VCPUs: 1, MemoryMiB: 256, CPUModel: "EPYC",
		}, func(p Paths) Paths { p.KVM = 14; return p }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ps := fds
			if c.paths != nil {
				ps = c.paths(ps)
			}
			args := CommandLine(p, c.m, &c.spec, ps)
			for i, a := range args {
				if strings.Contains(args[max(i-1, 0)], "-device") && strings.Contains(a, "-pci") && !strings.Contains(a, "romfile=,") && !strings.HasSuffix(a, "romfile=") {
					t.Errorf("%s: an option ROM", a)
				}
			}
			golden(t, c.name, strings.Join(args, "\n")+"\n")
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "cmdline-"+name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the command line is\n%s\nwant\n%s", got, want)
	}
}
