package hostcheck

// cpuid executes the instruction of that name.
func cpuid(leaf, sub uint32) (eax, ebx uint32)

// Leaves of CPUID.
const (
	leafMax        = 0x80000000
	leafAddresses  = 0x80000008
	leafEncryption = 0x8000001f
)

func cpuEncryption() CPU {
	top, _ := cpuid(leafMax, 0)
	if top < leafEncryption {
		return CPU{}
	}
	width, _ := cpuid(leafAddresses, 0)
	_, b := cpuid(leafEncryption, 0)
	return CPU{CBit: int(b & 0x3f), Reduced: int(b >> 6 & 0x3f), PhysBits: int(width & 0xff)}
}
