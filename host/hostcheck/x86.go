package hostcheck

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/ovmf"
)

// KVM's capabilities and VM types (Linux, include/uapi/linux/kvm.h and
// arch/x86/include/uapi/asm/kvm.h).
const (
	capS390Protected = 180
	capVMTypes       = 235

	vmTypeSEV   = 2
	vmTypeSEVES = 3
	vmTypeSNP   = 4
	vmTypeTDX   = 5
)

// sev checks what a TEE of AMD's needs.
func (h *Host) sev(r *Report, tee launch.TEE) {
	flag, param, vmType, name := "sev_snp", "sev_snp", vmTypeSNP, "SEV-SNP"
	switch tee {
	case launch.SEV:
		flag, param, vmType, name = "sev", "sev", vmTypeSEV, "SEV"
	case launch.SEVES:
		flag, param, vmType, name = "sev_es", "sev_es", vmTypeSEVES, "SEV-ES"
	}
	r.add(h.cpuFlag(flag, "turn on SME, "+name+" and (for SNP) RMP coverage in the firmware setup; the CPU must be an EPYC that has it"))
	r.add(h.parameter("kvm-parameter", "kvm_amd", param, "start the host's kernel with kvm_amd."+param+"=1 and mem_encrypt on, and see dmesg for why it was left off"))
	r.add(h.extension("kvm-vm-type", "KVM makes "+name+" guests", capVMTypes, 1<<vmType, "use a kernel that has them (SNP: 6.11 or newer)"))
	r.add(h.device("sev-device", "the secure processor's device can be opened", "dev/sev", "load the module ccp and check the firmware setup; the node's process must be root"))
	if tee == launch.SNP {
		r.add(h.snpState())
	}
	c := h.CPU()
	r.add(Check{
		ID: "c-bit", What: "the CPU names the encryption bit", OK: c.CBit > launch.PhysBits && c.CBit < 64 && c.Reduced > 0 && c.PhysBits-c.Reduced >= launch.PhysBits,
		Found: fmt.Sprintf("bit %d, addresses of %d bits less %d", c.CBit, c.PhysBits, c.Reduced), Fix: "this CPU or the hypervisor around it has no memory encryption",
	})
}

func (h *Host) snpState() Check {
	c := Check{ID: "snp-state", What: "the secure processor has SNP initialised", Fix: "update the SEV firmware, turn RMP coverage on in the firmware setup, and see dmesg for SEV-SNP"}
	s, err := h.SNPStatus()
	if err != nil {
		c.Found = err.Error()
		return c
	}
	c.OK = s.State == 1 && s.RMPInitialised
	c.Found = fmt.Sprintf("API %d.%d, state %d, reverse map table initialised: %t", s.Major, s.Minor, s.State, s.RMPInitialised)
	return c
}

// tdx checks what Intel's TEE needs.
func (h *Host) tdx(r *Report) {
	r.add(h.cpuFlag("tdx_host_platform", "turn on TME-MT, SEAM loader and TDX in the firmware setup; the CPU must be a Xeon that has it"))
	r.add(h.parameter("kvm-parameter", "kvm_intel", "tdx", "start the host's kernel with kvm_intel.tdx=1, and see dmesg for virt/tdx"))
	r.add(h.extension("kvm-vm-type", "KVM makes TDX guests", capVMTypes, 1<<vmTypeTDX, "use a kernel that has them (6.16 or newer)"))
	r.add(h.socket("quote-socket", "Intel's quote generation service listens on "+h.QuoteSocket, h.QuoteSocket, "install and start qgsd (package tdx-qgs); without quotes a TD cannot attest"))
}

func (h *Host) cpuFlag(flag, fix string) Check {
	c := Check{ID: "cpu-flag", What: "the kernel has found the CPU flag " + flag, Found: "it is not in /proc/cpuinfo", Fix: fix}
	b, err := h.read("proc/cpuinfo", maxCPUInfo)
	if err != nil {
		c.Found = err.Error()
		return c
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		name, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		if slices.Contains(strings.Fields(flags), flag) {
			c.OK, c.Found = true, "it is there"
		}
		break // all CPUs have the same
	}
	return c
}

func (h *Host) parameter(id, module, name, fix string) Check {
	c := h.fileSays(id, fmt.Sprintf("the module %s has %s on", module, name), "sys/module/"+module+"/parameters/"+name, fix)
	return c
}

// firmware checks the file that a launch starts from, as far as it says what it can:
// one without room for the kernel's hashes would start any kernel under SEV.
func (h *Host) firmware(tee launch.TEE, path string) Check {
	c := Check{ID: "firmware", What: "the firmware can be started under " + string(tee), Fix: "coffer guest build gets it (OVMF.amdsev.fd, OVMF.inteltdx.fd)"}
	if path == "" {
		c.Found = "the platform names none"
		return c
	}
	b, err := readBounded(path, ovmf.MaxSize)
	if err != nil {
		c.Found = err.Error()
		return c
	}
	a, err := ovmf.ReadAbilities(b)
	switch {
	case err != nil:
		c.Found = err.Error()
	case tee == launch.TDX && !a.TDX:
		c.Found = "it has no TDX metadata"
	case tee == launch.SNP && !a.SNP:
		c.Found = "it has no SEV metadata"
	case tee.SEVFamily() && !a.KernelHashes:
		c.Found = "its table of kernel hashes is empty: the kernel would not be measured"
	default:
		c.OK, c.Found = true, path
	}
	return c
}
