package measure

import (
	"encoding/binary"

	"github.com/cofferproject/coffer/tee/snp/firmware"
)

// The kernel-hash table (QEMU, target/i386/sev.c; OvmfPkg/AmdSev/BlobVerifierLibSevHashes):
// a head and three entries, each of GUID, 16-bit length of the whole, contents;
// GUIDs in mixed-endian bytes; padded to 16 bytes.
const (
	tableHead  = 18
	tableEntry = tableHead + 32
	tableUsed  = tableHead + 3*tableEntry
	tableSize  = (tableUsed + 15) &^ 15
)

var (
	guidTable   = [16]byte{0x06, 0xd6, 0x38, 0x94, 0x22, 0x4f, 0xc9, 0x4c, 0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21}
	guidKernel  = [16]byte{0x37, 0x94, 0xe7, 0x4d, 0xd2, 0xab, 0x7f, 0x42, 0xb8, 0x35, 0xd5, 0xb1, 0x72, 0xd2, 0x04, 0x5b}
	guidInitrd  = [16]byte{0x31, 0xf7, 0xba, 0x44, 0x2f, 0x3a, 0xd7, 0x4b, 0x9a, 0xf1, 0x41, 0xe2, 0x91, 0x69, 0x78, 0x1d}
	guidCmdline = [16]byte{0xd8, 0x2d, 0xd0, 0x97, 0x20, 0xbd, 0x94, 0x4c, 0xaa, 0x78, 0xe7, 0x71, 0x4d, 0x36, 0xab, 0x2a}
)

func (h *Hashes) table() []byte {
	b := make([]byte, 0, tableSize)
	b = binary.LittleEndian.AppendUint16(append(b, guidTable[:]...), tableUsed)
	for _, e := range []struct{ id, hash []byte }{{guidCmdline[:], h.Cmdline[:]}, {guidInitrd[:], h.Initrd[:]}, {guidKernel[:], h.Kernel[:]}} {
		b = binary.LittleEndian.AppendUint16(append(b, e.id...), tableEntry)
		b = append(b, e.hash...)
	}
	return b[:tableSize]
}

// page gives the page that holds the table at off.
func (h *Hashes) page(off int) []byte {
	p := make([]byte, firmware.PageSize)
	copy(p[off:], h.table())
	return p
}
