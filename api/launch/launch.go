// Package launch is the contract LaunchSpec: everything that is launched and
// measured when a TEE starts, in one value. host/vmm turns it into a command
// line, tee/*/measure into an expected digest; one table of cases tests both so
// that they cannot drift apart (design.md section 2).
//
// Trust zone: none of its own. The owner's tools make a LaunchSpec, the host
// obeys it or not; the TEE's evidence tells which.
package launch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// TEE names the way a pod is confined. The values are the ones users type
// after --tee; a "-sim" suffix means that nothing is protected.
type TEE string

// TEEs that a LaunchSpec may name.
const (
	TPMSim      TEE = "tpm-sim"       // VM with a software TPM (swtpm), measured boot by OVMF
	SNP         TEE = "snp"           // AMD SEV-SNP
	SNPSim      TEE = "snp-sim"       //
	SEV         TEE = "sev"           // AMD SEV
	SEVES       TEE = "sev-es"        // AMD SEV-ES
	TDX         TEE = "tdx"           // Intel TDX
	TDXSim      TEE = "tdx-sim"       //
	CCA         TEE = "cca"           // Arm CCA
	CCASim      TEE = "cca-sim"       //
	SE          TEE = "se"            // IBM Secure Execution
	SGX         TEE = "sgx"           // Intel SGX
	NitroSim    TEE = "nitro-sim"     // AWS Nitro Enclaves, simulated
	AzureSNPSim TEE = "azure-snp-sim" // Azure confidential VM on SNP, simulated
	SGXSim      TEE = "sgx-sim"       // Intel SGX, simulated: a process in gVisor's Sentry as the library OS
	None        TEE = "none"          // VM without any TEE: for boot benchmarks and tests only
)

// SimulatedTEEs lists what coffer-simhw and swtpm play, for help and completion.
var SimulatedTEEs = []TEE{TPMSim, SNPSim, TDXSim, CCASim, NitroSim, AzureSNPSim, SGXSim}

// Simulated reports whether the TEE protects nothing.
func (t TEE) Simulated() bool { return t == None || strings.HasSuffix(string(t), "-sim") }

// Process reports whether the pod is in a process and not in a virtual machine: its
// kernel is a library OS (api/libos). Then a Spec's kernel is that program, its
// initrd the guest's first program, and its command line what both are told.
func (t TEE) Process() bool { return t == SGXSim }

// Played reports whether coffer-simhw plays the TEE's hardware, beside a QEMU that
// boots the kernel directly.
func (t TEE) Played() bool {
	switch t {
	case SNPSim, TDXSim, CCASim, NitroSim, AzureSNPSim:
		return true
	}
	return false
}

// LoadsImage reports whether the TEE is given one image that holds all it starts
// from, in place of firmware, kernel and initrd.
func (t TEE) LoadsImage() bool { return t == SGX || t == SE }

// Firmware names the kind of firmware that t's hardware measures: "snp", "tdx",
// or "" for none of its own.
func (t TEE) Firmware() string {
	switch t {
	case SNP, SNPSim, SEV, SEVES, AzureSNPSim:
		return "snp"
	case TDX, TDXSim:
		return "tdx"
	}
	return ""
}

// DefaultCPUModel is the vCPU model of TEEs that measure one.
func (t TEE) DefaultCPUModel() string {
	if t.Firmware() == "snp" {
		return "EPYC-v4"
	}
	return ""
}

// Wire gives the name that evidence of t has in the KBS protocol.
func (t TEE) Wire() string {
	switch t {
	case TPMSim:
		return "tpm"
	case AzureSNPSim:
		return "az-snp-vtpm"
	}
	return strings.TrimSuffix(string(t), "-sim")
}

// CPUsCmdline has the kernel boot on one CPU; the guest's first process starts the
// others (guest/boot.StartCPUs). For that to be quick, the kernel neither patches
// itself for one CPU and back, nor calibrates each CPU's delay loop by a clock that an
// emulated machine does not keep well: delays are those of a time stamp counter of 5
// GHz at the 250 Hz of the kernel's clock, so they are too long rather than too short.
const CPUsCmdline = "maxcpus=1 noreplace-smp lpj=20000000"

// ConstantCmdline is the kernel command line of every release guest: all
// configuration goes through initdata, so the line never varies (design.md
// section 5).
const ConstantCmdline = "console=ttyS0 quiet panic=-1 oops=panic cryptomgr.notests no_timer_check " + CPUsCmdline

// MemoryLadderMiB lists the only memory sizes a VM may have, in MiB. PCR 4
// depends on the size, so a free choice would make measurements innumerable.
var MemoryLadderMiB = []int{256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768}

// DefaultVCPUs is how many vCPUs a pod's VM has at least. A start is parallel
// work (attesting, pulling, decrypting, unpacking), and a pod without a limit
// may use what there is; a container's own limit holds by its control group.
const DefaultVCPUs = 2

// Annotations of a pod that say the size of its VM, as published: the owner's tool
// writes them, a runtime reads them.
const (
	AnnotationMemory = "io.katacontainers.config.hypervisor.default_memory" // MiB
	AnnotationVCPUs  = "io.katacontainers.config.hypervisor.default_vcpus"
)

// RungFor gives the smallest rung of MemoryLadderMiB that holds mib MiB.
func RungFor(mib int) (int, error) {
	for _, r := range MemoryLadderMiB {
		if mib <= r {
			return r, nil
		}
	}
	return 0, fmt.Errorf("%d MiB of memory is more than the largest VM size, %d MiB", mib, MemoryLadderMiB[len(MemoryLadderMiB)-1])
}

// Spec says what to launch. Paths are host paths; Digest* fields, where set,
// are lower-case hex SHA-256 that the launcher checks before it starts anything
// (a friendly early error; the proof is the measurement).
type Spec struct {
	TEE       TEE    `json:"tee"`
	Firmware  File   `json:"firmware"`            // OVMF code image; empty Path for direct boot without firmware
	VarsFile  File   `json:"vars,omitzero"`       // OVMF variable store template, copied per VM
	Kernel    File   `json:"kernel"`              // bzImage (with firmware) or PVH vmlinux (without)
	Initrd    File   `json:"initrd"`              //
	Cmdline   string `json:"cmdline"`             // ConstantCmdline except in tests and debug images
	VCPUs     int    `json:"vcpus"`               // 1..64
	CPUModel  string `json:"cpu_model,omitempty"` // of the TEE, as QEMU names it ("EPYC-Milan-v2"); "" = the driver's default
	MemoryMiB int    `json:"memory_mib"`          // a rung of MemoryLadderMiB
	// Initdata is the plain initdata document, at most 4 MiB; nil: no device.
	Initdata []byte `json:"initdata,omitempty"`
	// TEEFirmware is the firmware that TEE hardware would measure (OVMF.amdsev.fd,
	// OVMF.inteltdx.fd). A simulator measures it and boots Firmware, since
	// emulation can run none of them.
	TEEFirmware File `json:"tee_firmware,omitzero"`
	// SimDevices are the kinds of devices beside the TEE that coffer-simhw plays, by
	// wire name ("nvidia"), one of each. They are in no measurement of the launch.
	SimDevices []string `json:"sim_devices,omitempty"`
	// Image is what a TEE without a kernel of its own loads whole: an SGX enclave
	// (SGXS), a Secure Execution boot image. Such a launch has no other file.
	Image File `json:"image,omitzero"`
	// SNP holds what only SEV-SNP, SEV-ES and SEV take.
	SNP *SNPParams `json:"snp,omitempty"`
	// SGX holds what only SGX takes.
	SGX *SGXParams `json:"sgx,omitempty"`
	// SE holds what only Secure Execution takes.
	SE *SEParams `json:"se,omitempty"`
	// HostDevices are PCI addresses ("0000:65:00.0") of host devices that the VM
	// gets as a whole before it starts. No measurement of the launch covers them:
	// they attest on their own.
	HostDevices []string `json:"host_devices,omitempty"`
	// Disks are for the pod's volumes. No measurement covers them: the guest encrypts
	// and authenticates what it writes there.
	Disks []Disk `json:"disks,omitempty"`
	// Publish lists host ports forwarded to the guest (user-mode networking).
	Publish []PortForward `json:"publish,omitempty"`
}

// SNPParams are launch parameters of SEV-SNP, SEV-ES and SEV.
type SNPParams struct {
	// Policy is the guest policy (SNP ABI, table "guest policy"; the SEV policy
	// for SEV and SEV-ES). 0: DefaultSNPPolicy.
	Policy uint64 `json:"policy,omitempty"`
	// Features are SEV_FEATURES of the VMSA. 0: SNPActive alone.
	Features uint64 `json:"features,omitempty"`
	// VMM is who makes the VMSA: "qemu" (also ""), "ec2", "gce".
	VMM string `json:"vmm,omitempty"`
	// IDBlock and IDAuth are what the hardware compares the launch with before it
	// starts it (SNP alone): 96 bytes, and 4096 bytes that sign them. Both or none.
	IDBlock []byte `json:"id_block,omitempty"`
	IDAuth  []byte `json:"id_auth,omitempty"`
	// DHCert and Session are the owner's certificate and session blob (SEV and
	// SEV-ES), and SecretService the URL at which the owner answers the launch's
	// measurement (SEVMeasurement) with a secret (SEVSecret). All or none.
	DHCert        []byte `json:"dh_cert,omitempty"`
	Session       []byte `json:"session,omitempty"`
	SecretService string `json:"secret_service,omitempty"`
}

// SGXParams are launch parameters of SGX.
type SGXParams struct {
	// Sigstruct is the enclave's signature: 1808 bytes as EINIT takes them.
	Sigstruct File `json:"sigstruct"`
}

// SEParams are launch parameters of Secure Execution.
type SEParams struct {
	// HostKeys are the documents (X.509) of the machines that may run the image.
	HostKeys []File `json:"host_keys"`
}

// Values of SNPParams.
const (
	DefaultSNPPolicy uint64 = 0x30000 // SMT allowed, no debug, no migration agent
	// SEV policies: no debugging, no key sharing, no sending to another machine,
	// none outside the domain, none without SEV; and for SEV-ES none without that.
	DefaultSEVPolicy   uint64 = 0x3b
	DefaultSEVESPolicy uint64 = 0x3f
	SNPActive          uint64 = 1 // SEV_FEATURES bit 0
)

// File is a host file that takes part in the launch.
type File struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256,omitempty"`
}

// PortForward maps HostIP:HostPort on the host to GuestPort in the guest.
type PortForward struct {
	HostIP    string `json:"host_ip"` // "" = 127.0.0.1
	HostPort  int    `json:"host_port"`
	GuestPort int    `json:"guest_port"`
	Protocol  string `json:"protocol"` // "tcp" or "udp"
}

// MaxInitdata is the largest plain initdata document, in bytes.
const MaxInitdata = 4 << 20

// Validate reports the first thing in s that no launcher may accept.
func (s *Spec) Validate() error {
	switch {
	case s.TEE == "":
		return errors.New("launch spec: tee: missing")
	case s.TEE.LoadsImage() && s.Image.Path == "":
		return errors.New("launch spec: image: missing path")
	case s.TEE.LoadsImage() && (s.Kernel.Path != "" || s.Initrd.Path != "" || s.Firmware.Path != "" || s.TEEFirmware.Path != "" || s.Cmdline != ""):
		return fmt.Errorf("launch spec: kernel, initrd, firmware or cmdline: %s loads its image and nothing else", s.TEE)
	case !s.TEE.LoadsImage() && s.Image.Path != "":
		return fmt.Errorf("launch spec: image: %s boots a kernel", s.TEE)
	case !s.TEE.LoadsImage() && s.Kernel.Path == "":
		return errors.New("launch spec: kernel: missing path")
	case s.SNP != nil && s.TEE.LoadsImage():
		return fmt.Errorf("launch spec: snp: %s takes none of it", s.TEE)
	case s.SGX != nil && s.TEE != SGX:
		return fmt.Errorf("launch spec: sgx: %s takes none of it", s.TEE)
	case s.SE != nil && s.TEE != SE:
		return fmt.Errorf("launch spec: se: %s takes none of it", s.TEE)
	case s.VCPUs < 1 || s.VCPUs > 64:
		return fmt.Errorf("launch spec: vcpus: %d is not between 1 and 64", s.VCPUs)
	case !slices.Contains(MemoryLadderMiB, s.MemoryMiB):
		return fmt.Errorf("launch spec: memory_mib: %d is not one of the sizes %v", s.MemoryMiB, MemoryLadderMiB)
	case len(s.Initdata) > MaxInitdata:
		return fmt.Errorf("launch spec: initdata: %d bytes, at most %d", len(s.Initdata), MaxInitdata)
	}
	if s.TEE.Process() && (s.Initrd.Path == "" || s.Firmware.Path != "" || s.TEEFirmware.Path != "" || s.VarsFile.Path != "") {
		return fmt.Errorf("launch spec: initrd: %s starts its library OS (kernel) with the guest's first program (initrd), and has no firmware", s.TEE)
	}
	if len(s.SimDevices) > 0 && !s.TEE.Played() {
		return fmt.Errorf("launch spec: sim_devices: only beside a TEE that coffer-simhw plays, which %s is not", s.TEE)
	}
	if err := s.validateSEV(); err != nil {
		return err
	}
	if err := s.validateHostDevices(); err != nil {
		return err
	}
	if err := s.validateDisks(); err != nil {
		return err
	}
	for i, p := range s.Publish {
		if p.HostPort < 1 || p.HostPort > 65535 || p.GuestPort < 1 || p.GuestPort > 65535 {
			return fmt.Errorf("launch spec: publish[%d]: port out of range", i)
		}
		if p.Protocol != "tcp" && p.Protocol != "udp" {
			return fmt.Errorf("launch spec: publish[%d]: protocol %q is neither tcp nor udp", i, p.Protocol)
		}
	}
	return nil
}
