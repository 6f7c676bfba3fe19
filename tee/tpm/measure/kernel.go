package measure

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/internal/uefi"
)

// Offsets in the setup header (Documentation/arch/x86/boot.rst).
const (
	offMagic       = 0x202
	offVersion     = 0x206
	offLoaderType  = 0x210
	offLoadFlags   = 0x211
	offRamdisk     = 0x218
	offRamdiskSize = 0x21c
	offHeapEnd     = 0x224
	offCmdline     = 0x228
	offXLoadFlags  = 0x236
	headerEnd      = 0x250
)

// Addresses at which QEMU 7.2 to 10 (hw/i386/x86-common.c) loads things for a
// boot protocol of 2.12 and later.
const (
	qemuSetupAddr   = 0x10000
	qemuCmdlineAddr = 0x20000
	qemuACPIData    = 0x28000 // kept free below the end of low memory
	pageMask        = 4095
)

// kernelImage is a bzImage with its PE layout.
type kernelImage struct {
	b  []byte
	pe *uefi.PE
}

func parseKernel(b []byte) (*kernelImage, error) {
	if len(b) < headerEnd || string(b[offMagic:offMagic+4]) != "HdrS" {
		return nil, errors.New("kernel: no Linux setup header")
	}
	le := binary.LittleEndian
	if v := le.Uint16(b[offVersion:]); v < 0x20c || le.Uint16(b[offXLoadFlags:])&2 == 0 {
		return nil, fmt.Errorf("kernel: boot protocol %d.%d without loading above 4 GiB is not supported", v>>8, v&0xff)
	}
	pe, err := uefi.ParsePE(b)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	return &kernelImage{b: b, pe: pe}, nil
}

// digest is what firmware measures into PCR 4: the kernel as QEMU hands it
// over, that is with the boot loader's fields of the setup header filled in.
// It depends on the memory size and on the initrd's size.
func (k *kernelImage) digest(memoryMiB int, initrdSize int64) (refvalue.Digest, error) {
	low := lowMemory(memoryMiB)
	top := low - qemuACPIData - 1
	if initrdSize > top-(16<<20) {
		return refvalue.Digest{}, fmt.Errorf("initrd of %d bytes does not fit into %d MiB of memory", initrdSize, memoryMiB)
	}
	// Only the header differs; copying it alone spares the rest.
	saved := [headerEnd]byte(k.b[:headerEnd])
	defer copy(k.b, saved[:])
	le := binary.LittleEndian
	k.b[offLoaderType] = 0xb0 // QEMU
	k.b[offLoadFlags] |= 0x80 // CAN_USE_HEAP
	le.PutUint16(k.b[offHeapEnd:], qemuCmdlineAddr-qemuSetupAddr-0x200)
	le.PutUint32(k.b[offCmdline:], qemuCmdlineAddr)
	le.PutUint32(k.b[offRamdisk:], uint32((top-initrdSize)&^pageMask))
	le.PutUint32(k.b[offRamdiskSize:], uint32(initrdSize))
	h := sha256.New()
	if err := k.pe.Hash(h, k.b); err != nil {
		return refvalue.Digest{}, err
	}
	return refvalue.Digest(h.Sum(nil)), nil
}

// lowMemory is how much of the memory QEMU's q35 machine puts below 4 GiB.
func lowMemory(memoryMiB int) int64 {
	const most, split = 0xb0000000, 0x80000000
	if b := int64(memoryMiB) << 20; b < most {
		return b
	}
	return split
}
