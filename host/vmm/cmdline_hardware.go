package vmm

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
)

// HardwarePaths are what only VMs of TEE hardware have.
type HardwarePaths struct {
	Firmware        string // /dev/fd/N
	SEV             string // /dev/fd/N of the secure processor's device
	DHCert, Session string // /dev/fd/N; "": no launch secret
	QuoteSocket     string // path of the quote generation service's socket
	// Bind is the digest of initdata, as long as the TEE's register; nil: none.
	Bind    []byte
	IOMMU   int   // descriptor of /dev/iommu; 0: no host devices
	Devices []int // descriptors of VFIO devices, in the order of Spec.HostDevices
	// DevicesMiB are the devices' memory regions in MiB, in that order.
	DevicesMiB []int
}

// HostCPU is what the host's processor says of itself.
type HostCPU struct {
	CBit     int // position of the encryption bit in a physical address (CPUID 0x8000001f)
	Reduced  int // bits of physical addresses that encryption takes
	PhysBits int // width of physical addresses (CPUID 0x80000008)
}

// physBits is the width of a SEV guest's addresses: the pinned one, and with host
// devices, whose memory may lie high, all that encryption leaves.
func (h HostCPU) physBits(spec *launch.Spec) int {
	if len(spec.HostDevices) == 0 {
		return launch.PhysBits
	}
	return min(h.PhysBits-h.Reduced, h.CBit)
}

// Names in the command lines of TEE hardware.
const (
	guardID  = "tee"
	memoryID = "ram"
)

// hardware is the machine of a TEE.
func (a *args) hardware(m Machine, spec *launch.Spec, paths Paths) {
	a.add("-machine", machineOf(spec.TEE))
	irqchip := ""
	if spec.TEE.SEVFamily() || spec.TEE == launch.TDX {
		irqchip = ",kernel-irqchip=split"
	}
	a.kvm(paths, irqchip)
	a.add("-cpu", teeCPU(m, spec))
	a.add("-smp", strconv.Itoa(spec.VCPUs))
	a.add("-m", fmt.Sprintf("%dM", spec.MemoryMiB))
	if usesMemfd(spec.TEE) {
		a.add("-object", fmt.Sprintf("memory-backend-memfd,id=%s,size=%dM,share=on,reserve=off,dump=off,merge=off", memoryID, spec.MemoryMiB))
	}
	a.add("-object", guard(m, spec, paths.Hardware))
	if spec.TEE.Firmware() != "" {
		a.add("-boot", "strict=on,menu=off") // measured into RTMR 0
		a.add(launch.MachineArgs...)
		a.add("-bios", paths.Hardware.Firmware)
	}
	if spec.SNP != nil && len(spec.SNP.DHCert) > 0 {
		a.add("-S") // until the secret is in
	}
}

func usesMemfd(t launch.TEE) bool { return t.SEVFamily() || t == launch.TDX }

// machineOf gives the machine. System management mode would be a second mode of the
// CPU that the hardware does not protect; TDX has none of the old timers.
func machineOf(t launch.TEE) string {
	common := ",dump-guest-core=off,mem-merge=off,confidential-guest-support=" + guardID
	const q35 = "q35,smbus=off,sata=off,usb=off,vmport=off,i8042=off,smm=off"
	switch t {
	case launch.SE:
		return "s390-ccw-virtio" + common
	case launch.CCA:
		return "virt,gic-version=3,acpi=off" + common
	case launch.TDX:
		return q35 + ",hpet=off,memory-backend=" + memoryID + common
	}
	return q35 + ",memory-backend=" + memoryID + common
}

// teeCPU gives the vCPU model. AMD's is part of the measurement, so it is a named
// one; TDX, SE and CCA offer a guest what the host has, less what they withhold.
func teeCPU(m Machine, spec *launch.Spec) string {
	switch {
	case spec.TEE.SEVFamily():
		model := spec.CPUModel
		if model == "" {
			model = spec.TEE.DefaultCPUModel()
		}
		return fmt.Sprintf("%s,phys-bits=%d,host-phys-bits=off,pmu=off", model, m.Host.physBits(spec))
	case spec.TEE == launch.SE:
		return "host"
	}
	return "host,pmu=off" // TDX takes no other width of addresses than the host's
}

// guard gives the object that stands for the TEE.
func guard(m Machine, spec *launch.Spec, p HardwarePaths) string {
	switch spec.TEE {
	case launch.SNP:
		return snpGuard(m, spec, p)
	case launch.SEV, launch.SEVES:
		s := fmt.Sprintf("sev-guest,id=%s,cbitpos=%d,reduced-phys-bits=%d,sev-device=%s,policy=%#x,kernel-hashes=on,legacy-vm-type=off",
			guardID, m.Host.CBit, m.Host.Reduced, p.SEV, spec.PolicyOf())
		if p.DHCert != "" {
			s += ",dh-cert-file=" + p.DHCert + ",session-file=" + p.Session
		}
		return s
	case launch.TDX:
		return tdxGuard(p)
	case launch.CCA:
		s := "rme-guest,id=" + guardID + ",measurement-algorithm=sha512"
		if p.Bind != nil {
			s += ",personalization-value=" + base64.StdEncoding.EncodeToString(p.Bind)
		}
		return s
	}
	return "s390-pv-guest,id=" + guardID
}

func snpGuard(m Machine, spec *launch.Spec, p HardwarePaths) string {
	s := fmt.Sprintf("sev-snp-guest,id=%s,cbitpos=%d,reduced-phys-bits=%d,sev-device=%s,policy=%#x,kernel-hashes=on",
		guardID, m.Host.CBit, m.Host.Reduced, p.SEV, spec.PolicyOf())
	b64 := base64.StdEncoding.EncodeToString
	if p.Bind != nil {
		s += ",host-data=" + b64(p.Bind)
	}
	if spec.SNP != nil && len(spec.SNP.IDBlock) > 0 {
		s += ",id-block=" + b64(spec.SNP.IDBlock) + ",id-auth=" + b64(spec.SNP.IDAuth)
		if hasAuthor(spec.SNP.IDAuth) {
			s += ",author-key-enabled=on"
		}
	}
	return s
}

// hasAuthor reads whether an ID authentication structure names an author key: its
// second word is the algorithm of that key (SNP firmware ABI, ID_AUTH).
func hasAuthor(auth []byte) bool {
	return len(auth) >= 8 && (auth[4]|auth[5]|auth[6]|auth[7]) != 0
}

func tdxGuard(p HardwarePaths) string {
	type socket struct {
		Type string `json:"type"`
		Path string `json:"path"`
	}
	o := struct {
		Type          string `json:"qom-type"`
		ID            string `json:"id"`
		SeptVEDisable bool   `json:"sept-ve-disable"` // Linux starts in no TD without it
		MRConfigID    []byte `json:"mrconfigid,omitempty"`
		Quotes        socket `json:"quote-generation-socket"`
	}{"tdx-guest", guardID, true, p.Bind, socket{"unix", p.QuoteSocket}}
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings and bytes alone
	}
	return string(b)
}

// mmioWindowMiB is room for the memory of one device and its alignment, the least that
// is given: the firmware looks for it above the guest's own memory.
const mmioWindowMiB = 256 << 10

// mmioWindow gives the room for all devices in MiB, a power of two. Regions are aligned
// by their own sizes, powers of two each, so that a device's fit into the next one.
func mmioWindow(devicesMiB []int) int {
	room := func(mib int) int {
		n := mmioWindowMiB
		for n < mib {
			n *= 2
		}
		return n
	}
	sum := 0
	for _, d := range devicesMiB {
		sum += room(d)
	}
	return room(sum)
}

// hostDevices are cold-plugged, each below a root port of its own, with no ROM that
// the firmware would run.
func (a *args) hostDevices(paths Paths) {
	p := paths.Hardware
	if len(p.Devices) == 0 {
		return
	}
	a.add("-fw_cfg", fmt.Sprintf("name=opt/ovmf/X-PciMmio64Mb,string=%d", mmioWindow(p.DevicesMiB)))
	a.add("-object", fmt.Sprintf("iommufd,id=iommu,fd=%d", p.IOMMU))
	for i, fd := range p.Devices {
		a.add("-device", fmt.Sprintf("pcie-root-port,id=port%d,bus=pcie.0,chassis=%d,addr=0x%x", i, i+1, firstPortSlot+i))
		a.add("-device", fmt.Sprintf("vfio-pci,id=host%d,bus=port%d,fd=%d,iommufd=iommu,rombar=0,romfile=", i, i, fd))
	}
}

// firstPortSlot is behind the slots of MaxNICs cards.
const firstPortSlot = 0x14

// Bind gives what a launch binds: the digest of initdata, by the one algorithm of
// its TEE and as long as its register; nil without initdata.
func Bind(spec *launch.Spec) ([]byte, error) {
	n := spec.TEE.BindSize()
	if spec.Initdata == nil || n == 0 {
		return nil, nil
	}
	alg, err := initdata.AlgorithmFor(spec.TEE.Wire())
	if err != nil {
		return nil, err
	}
	sum, err := initdata.Digest(alg, spec.Initdata)
	if err != nil {
		return nil, err
	}
	return initdata.Fit(sum, n), nil
}

// DefaultQuoteSocket is where Intel's quote generation service listens.
const DefaultQuoteSocket = "/var/run/tdx-qgs/qgs.socket"
