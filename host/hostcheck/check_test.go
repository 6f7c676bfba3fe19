package hostcheck

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/test/vectors"
)

// machine is a fake machine that has all that a TEE needs.
type machine struct {
	*Host
	t       *testing.T
	vmTypes int
	snp     SNPStatus
	cpu     CPU
	qemu    QEMU
	qemuErr error
}

func newMachine(t *testing.T, arch string) *machine {
	t.Helper()
	m := &machine{
		t: t, vmTypes: 1<<vmTypeSEV | 1<<vmTypeSEVES | 1<<vmTypeSNP | 1<<vmTypeTDX,
		snp: SNPStatus{1, 55, 1, true}, cpu: CPU{CBit: 51, Reduced: 5, PhysBits: 52},
		qemu: QEMU{"QEMU emulator version 10.1.0", []string{"q35", "virt", "s390-ccw-virtio"}, []string{"sev-guest", "sev-snp-guest", "tdx-guest", "rme-guest", "s390-pv-guest"}},
	}
	m.Host = &Host{
		Root: t.TempDir(), Arch: arch, QuoteSocket: "/q.sock",
		Extension: func(c int) (int, error) {
			switch c {
			case capVMTypes:
				return m.vmTypes, nil
			case capS390Protected:
				return 1, nil
			}
			return 0, errors.New("no such capability")
		},
		SNPStatus: func() (SNPStatus, error) { return m.snp, nil },
		CPU:       func() CPU { return m.cpu },
		QEMU:      func(context.Context) (QEMU, error) { return m.qemu, m.qemuErr },
	}
	for name, content := range map[string]string{
		"dev/kvm": "", "dev/sev": "", "dev/iommu": "",
		"proc/cpuinfo":    "processor\t: 0\nflags\t\t: fpu sev sev_es sev_snp tdx_host_platform sgx sgx_lc\n",
		"dev/sgx_enclave": "", "dev/sgx_provision": "", "etc/sgx_default_qcnl.conf": "{\n  // of this site\n  \"pccs_url\": \"https://pccs.example:8081/sgx/certification/v4/\"\n  //,\"use_secure_cert\": false\n}\n",
		"sys/devices/system/node/node0/x86/sgx_total_bytes": "67108864\n", "sys/devices/system/node/node1/x86/sgx_total_bytes": "67108864\n",
		"sys/module/kvm_amd/parameters/sev": "Y\n", "sys/module/kvm_amd/parameters/sev_es": "Y\n", "sys/module/kvm_amd/parameters/sev_snp": "Y\n",
		"sys/module/kvm_intel/parameters/tdx": "Y\n", "sys/firmware/uv/prot_virt_host": "1\n", "sys/module/kvm/parameters/rme": "Y\n",
	} {
		m.write(name, content)
	}
	m.gpu()
	if err := os.MkdirAll(m.path("var/run/aesmd"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(m.Root) // a socket's path is at most 108 bytes
	for _, name := range []string{"q.sock", "." + aesmSocket} {
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	return m
}

const gpu, gpuSound = "0000:65:00.0", "0000:65:00.1"

// gpu adds a GPU that VFIO has, with its sound function and the port above it in one group.
func (m *machine) gpu() {
	m.t.Helper()
	const devices = "sys/bus/pci/devices/"
	for address, driver := range map[string]string{gpu: "vfio-pci", gpuSound: "vfio-pci", "0000:64:01.0": "pcieport"} {
		m.write(devices+address+"/class", "0x030000\n")
		m.link("../../../bus/pci/drivers/"+driver, devices+address+"/driver")
		m.write("sys/kernel/iommu_groups/7/devices/"+address+"/x", "")
		m.link("../../../../kernel/iommu_groups/7", devices+address+"/iommu_group")
	}
	m.write(devices+gpu+"/vfio-dev/vfio3/dev", "237:3\n")
	m.write("dev/vfio/devices/vfio3", "")
}

func (m *machine) link(to, name string) {
	m.t.Helper()
	if err := os.Symlink(to, m.path(name)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) write(name, content string) {
	m.t.Helper()
	p := m.path(name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) remove(name string) {
	m.t.Helper()
	if err := os.RemoveAll(m.path(name)); err != nil {
		m.t.Fatal(err)
	}
}

func archOf(t launch.TEE) string { a, _ := architecture(t); return a }

func TestReady(t *testing.T) {
	fw := filepath.Join(vectors.Dir(t, "measure"), "ovmf_AmdSev_suffix.bin")
	for _, tee := range TEEs() {
		r := newMachine(t, archOf(tee)).Inspect(t.Context(), tee, Needs{Firmware: fw, HostDevices: []string{gpu}})
		if err := r.Err(); err != nil || !r.Ready || len(r.Checks) < 5 {
			t.Errorf("%s: %v, %+v", tee, err, r.Checks)
		}
		for _, c := range r.Checks {
			if c.Fix != "" {
				t.Errorf("%s: %s is there, and yet: %s", tee, c.ID, c.Fix)
			}
		}
	}
}

// TestMissing takes one thing away at a time: exactly that is found to be missing,
// with what to do.
func TestMissing(t *testing.T) {
	dir := vectors.Dir(t, "measure")
	good, empty := filepath.Join(dir, "ovmf_AmdSev_suffix.bin"), filepath.Join(dir, "ovmf_OvmfX64_suffix.bin")
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tee      launch.TEE
		id, says string
		firmware string
		spoil    func(*machine)
	}{
		{launch.SNP, "architecture", "arm64", good, func(m *machine) { m.Arch = "arm64" }},
		{launch.SNP, "kvm-device", "missing", good, func(m *machine) { m.remove("dev/kvm") }},
		{launch.SNP, "cpu-flag", "cpuinfo", good, func(m *machine) { m.write("proc/cpuinfo", "flags : sev sev_es sev_snp_not\n") }},
		{launch.SNP, "kvm-parameter", `says "N"`, good, func(m *machine) { m.write("sys/module/kvm_amd/parameters/sev_snp", "N\n") }},
		{launch.SNP, "kvm-parameter", "missing", good, func(m *machine) { m.remove("sys/module/kvm_amd") }},
		{launch.SNP, "kvm-vm-type", "capability 235", good, func(m *machine) { m.vmTypes &^= 1 << vmTypeSNP }},
		{launch.SNP, "sev-device", "missing", good, func(m *machine) { m.remove("dev/sev") }},
		{launch.SNP, "snp-state", "state 0", good, func(m *machine) { m.snp.State = 0 }},
		{launch.SNP, "snp-state", "initialised: false", good, func(m *machine) { m.snp.RMPInitialised = false }},
		{launch.SNP, "snp-state", "busy", good, func(m *machine) {
			m.Host.SNPStatus = func() (SNPStatus, error) { return SNPStatus{1, 55, 1, true}, errors.New("busy") }
		}},
		{launch.SNP, "c-bit", "bit 0", good, func(m *machine) { m.cpu = CPU{} }},
		{launch.SNP, "firmware", "names none", "", func(*machine) {}},
		{launch.SNP, "firmware", "table of kernel hashes is empty", empty, func(*machine) {}},
		{launch.SEV, "firmware", "table of kernel hashes is empty", empty, func(*machine) {}},
		{launch.SNP, "firmware", "no GUID table", junk, func(*machine) {}},
		{launch.SNP, "firmware", "no such file", junk + ".not", func(*machine) {}},
		{launch.SNP, "qemu-object", "10.1.0", good, func(m *machine) { m.qemu.Objects = []string{"sev-guest"} }},
		{launch.SNP, "qemu", "exec format", good, func(m *machine) { m.qemuErr = errors.New("exec format error") }},
		{launch.SNP, "iommufd", "missing", good, func(m *machine) { m.remove("dev/iommu") }},
		{launch.SNP, "host-device", "missing", good, func(m *machine) { m.remove("sys/bus/pci/devices/" + gpu) }},
		{launch.SNP, "host-device-vfio", "driver is vfio-pci", good, func(m *machine) { m.remove("dev/vfio/devices/vfio3") }},
		{launch.TDX, "host-device-vfio", "driver is nvidia", good, func(m *machine) {
			m.remove("sys/bus/pci/devices/" + gpu + "/vfio-dev")
			m.remove("sys/bus/pci/devices/" + gpu + "/driver")
			m.link("../drivers/nvidia", "sys/bus/pci/devices/"+gpu+"/driver")
		}},
		{launch.TDX, "host-device-group", gpuSound + " has snd_hda_intel", good, func(m *machine) {
			m.remove("sys/bus/pci/devices/" + gpuSound + "/driver")
			m.link("../drivers/snd_hda_intel", "sys/bus/pci/devices/"+gpuSound+"/driver")
		}},
		{launch.SEVES, "kvm-vm-type", "capability 235", good, func(m *machine) { m.vmTypes = 1 << vmTypeSEV }},
		{launch.TDX, "kvm-parameter", "missing", good, func(m *machine) { m.remove("sys/module/kvm_intel") }},
		{launch.TDX, "cpu-flag", "cpuinfo", good, func(m *machine) { m.write("proc/cpuinfo", "") }},
		{launch.TDX, "quote-socket", "missing", good, func(m *machine) { m.QuoteSocket = "/not.sock" }},
		{launch.TDX, "quote-socket", "no socket", good, func(m *machine) { m.QuoteSocket = "/dev/kvm" }},
		{launch.TDX, "qemu-object", "10.1.0", good, func(m *machine) { m.qemu.Objects = nil }},
		{launch.SE, "ultravisor", `says "0"`, good, func(m *machine) { m.write("sys/firmware/uv/prot_virt_host", "0\n") }},
		{launch.SE, "kvm-protected", "0x0", good, func(m *machine) { m.Extension = func(int) (int, error) { return 0, nil } }},
		{launch.SE, "qemu-machine", "10.1.0", good, func(m *machine) { m.qemu.Machines = []string{"q35"} }},
		{launch.CCA, "realm-management", "missing", good, func(m *machine) { m.remove("sys/module/kvm") }},
		{launch.SGX, "cpu-flag", "cpuinfo", "", func(m *machine) { m.write("proc/cpuinfo", "flags : sgx_lc\n") }},
		{launch.SGX, "launch-control", "cpuinfo", "", func(m *machine) { m.write("proc/cpuinfo", "flags : sgx\n") }},
		{launch.SGX, "sgx-enclave", "missing", "", func(m *machine) { m.remove("dev/sgx_enclave") }},
		{launch.SGX, "sgx-provision", "missing", "", func(m *machine) { m.remove("dev/sgx_provision") }},
		{launch.SGX, "epc", "0 MiB", "", func(m *machine) { m.remove("sys/devices") }},
		{launch.SGX, "epc", "0 MiB", "", func(m *machine) {
			m.write("sys/devices/system/node/node0/x86/sgx_total_bytes", "no number")
			m.remove("sys/devices/system/node/node1")
			m.write("sys/fs/cgroup/misc.capacity", "sev 509\nsgx_epc 0\n")
		}},
		{launch.SGX, "aesm", "missing", "", func(m *machine) { m.remove("var/run/aesmd") }},
		{launch.SGX, "aesm", "no socket", "", func(m *machine) {
			m.remove("var/run/aesmd/aesm.socket")
			m.write("var/run/aesmd/aesm.socket", "")
		}},
		{launch.SGX, "quote-provider", "missing", "", func(m *machine) { m.remove("etc") }},
		{launch.SGX, "quote-provider", "names none", "", func(m *machine) { m.write("etc/sgx_default_qcnl.conf", "{}") }},
		{launch.SGX, "quote-provider", "without TLS", "", func(m *machine) { m.write("etc/sgx_default_qcnl.conf", "# old\nPCCS_URL=http://pccs.example/\n") }},
		{launch.SGX, "quote-provider", "no URL", "", func(m *machine) { m.write("etc/sgx_default_qcnl.conf", `{"pccs_url": "pccs"}`) }},
		{launch.SGX, "quote-provider", "more than", "", func(m *machine) { m.write("etc/sgx_default_qcnl.conf", strings.Repeat("x", maxQCNL+1)) }},
	} {
		t.Run(string(c.tee)+"-"+c.id, func(t *testing.T) {
			m := newMachine(t, archOf(c.tee))
			c.spoil(m)
			r := m.Inspect(t.Context(), c.tee, Needs{Firmware: c.firmware, HostDevices: []string{gpu}})
			var failed []string
			for _, k := range r.Checks {
				if !k.OK {
					failed = append(failed, k.ID)
				}
			}
			f := r.First()
			if r.Ready || !slices.Equal(failed, []string{c.id}) || !strings.Contains(f.Found, c.says) || f.Fix == "" {
				t.Fatalf("failed %v: %+v", failed, f)
			}
			var e *NotReadyError
			if err := r.Err(); !errors.As(err, &e) || !strings.Contains(err.Error(), c.id) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestThisMachine asks the real one: whatever it has, it answers.
func TestThisMachine(t *testing.T) {
	h := This("/nonexistent/qemu", "/nonexistent/socket")
	for _, r := range h.All(t.Context(), func(launch.TEE) string { return "" }) {
		if r.Ready { // there is no QEMU
			t.Errorf("%s is ready: %+v", r.TEE, r.Checks)
		}
	}
}

// TestEPC takes the sources away one by one.
func TestEPC(t *testing.T) {
	m := newMachine(t, "amd64")
	m.cpu.EPC = 32 << 20
	m.write("sys/fs/cgroup/misc.capacity", "res_a 1\nsgx_epc 100663296\n")
	for _, want := range []string{"128 MiB, by 2 NUMA nodes", "96 MiB, by /sys/fs/cgroup/misc.capacity", "32 MiB, by the CPU"} {
		if c := m.epc(); !c.OK || c.Found != want {
			t.Errorf("%+v, want %s", c, want)
		}
		if strings.HasPrefix(want, "128") {
			m.remove("sys/devices")
		} else {
			m.remove("sys/fs")
		}
	}
}

func TestParseSNPStatus(t *testing.T) {
	b := [snpPlatformStatusSize]byte{1, 55, 1, 1}
	if s := parseSNPStatus(b); s != (SNPStatus{1, 55, 1, true}) {
		t.Errorf("%+v", s)
	}
	b[3] = 2 // masking of chip ids, no RMP
	if s := parseSNPStatus(b); s.RMPInitialised {
		t.Errorf("%+v", s)
	}
}

func TestNames(t *testing.T) {
	got := names("List of user creatable objects:\n  sev-guest\n  sev-snp-guest\n\n")
	if !slices.Equal(got, []string{"sev-guest", "sev-snp-guest"}) {
		t.Errorf("%q", got)
	}
}
