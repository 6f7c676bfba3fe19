package hostcheck

// cpuid executes the instruction of that name.
func cpuid(leaf, sub uint32) (eax, ebx, ecx, edx uint32)

// Leaves of CPUID.
const (
	leafBasicMax   = 0
	leafFeatures   = 7
	leafSGX        = 0x12
	leafMax        = 0x80000000
	leafAddresses  = 0x80000008
	leafEncryption = 0x8000001f
)

func askCPU() CPU {
	c := CPU{EPC: epcSections()}
	top, _, _, _ := cpuid(leafMax, 0)
	if top < leafEncryption {
		return c
	}
	width, _, _, _ := cpuid(leafAddresses, 0)
	_, b, _, _ := cpuid(leafEncryption, 0)
	c.CBit, c.Reduced, c.PhysBits = int(b&0x3f), int(b>>6&0x3f), int(width&0xff)
	return c
}

// maxSections bounds the list of the CPU, which has one for each socket.
const maxSections = 64

// epcSections adds up the EPC sections (SDM volume 3D, "Discovery of Support for
// Intel SGX"): EAX bits 3:0 are 1 for one, its size is in ECX bits 31:12 and EDX bits 19:0.
func epcSections() (total uint64) {
	if top, _, _, _ := cpuid(leafBasicMax, 0); top < leafSGX {
		return 0
	}
	if _, b, _, _ := cpuid(leafFeatures, 0); b&(1<<2) == 0 {
		return 0
	}
	for sub := uint32(2); sub < 2+maxSections; sub++ {
		a, _, c, d := cpuid(leafSGX, sub)
		if a&0xf != 1 {
			break
		}
		total += uint64(d&0xfffff)<<32 | uint64(c&^0xfff)
	}
	return total
}
