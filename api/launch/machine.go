package launch

// What of the virtual machine itself ends up in a measurement. OVMF measures
// its PEI volume after the platform module has written into it what it learned
// of the machine (PCR 0): the number of vCPUs, the width of physical addresses,
// whether the machine can suspend, and, from 32 GiB of memory on, its size. So
// all but vCPUs and memory are pinned here, for host/vmm to obey and for
// tee/tpm/measure to compute with.
const (
	// PhysBits is the width of guest-physical addresses. Every -cpu argument
	// ends in ",phys-bits=40" (with KVM also ",host-phys-bits=off").
	PhysBits = 40
	// MaxVCPUs is the largest number of vCPUs of a LaunchSpec.
	MaxVCPUs = 64
)

// MachineArgs are QEMU arguments of every VM: no suspend to RAM or disk, which
// a pod never needs and whose reserved memory would make PCR 0 depend on the
// memory size.
var MachineArgs = []string{"-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1"}
