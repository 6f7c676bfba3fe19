// Package bzimage takes the ELF kernel out of an x86 bzImage: Documentation/
// arch/x86/boot.rst, fields setup_sects, payload_offset and payload_length.
// The ELF boots through the PVH entry, which is faster than the bzImage where
// no firmware measures it.
//
// Trust zone: owner (build time). The input comes from a package whose digest
// was checked; it is read with bounds all the same.
package bzimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	offSetupSects    = 0x1f1
	offHeaderMagic   = 0x202
	offPayloadOffset = 0x248
	offPayloadLength = 0x24c
	minHeader        = 0x250

	maxKernel = 512 << 20 // bytes of the unpacked ELF
)

var (
	magicZstd = []byte{0x28, 0xb5, 0x2f, 0xfd}
	magicXZ   = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	magicELF  = []byte{0x7f, 'E', 'L', 'F'}
)

// ExtractELF gives the kernel's ELF image.
func ExtractELF(img []byte) ([]byte, error) {
	p, err := payload(img)
	if err != nil {
		return nil, err
	}
	var elf []byte
	switch {
	case bytes.HasPrefix(p, magicZstd):
		elf, err = unzstd(p)
	case bytes.HasPrefix(p, magicXZ):
		elf, err = unxz(p)
	default:
		return nil, fmt.Errorf("bzImage: payload compression with magic % x is neither zstd nor xz", p[:4])
	}
	if err != nil {
		return nil, fmt.Errorf("bzImage: unpacking payload: %w", err)
	}
	if !bytes.HasPrefix(elf, magicELF) {
		return nil, errors.New("bzImage: payload is not an ELF image")
	}
	return elf, nil
}

func payload(img []byte) ([]byte, error) {
	if len(img) < minHeader || string(img[offHeaderMagic:offHeaderMagic+4]) != "HdrS" {
		return nil, errors.New("bzImage: no setup header")
	}
	sects := int64(img[offSetupSects])
	if sects == 0 {
		sects = 4 // the boot protocol's rule for old kernels
	}
	start := (sects+1)*512 + int64(binary.LittleEndian.Uint32(img[offPayloadOffset:]))
	size := int64(binary.LittleEndian.Uint32(img[offPayloadLength:]))
	// The payload ends with four bytes that hold the unpacked size.
	if size < 16 || start+size > int64(len(img)) {
		return nil, fmt.Errorf("bzImage: payload of %d bytes at %d is outside the file of %d bytes", size, start, len(img))
	}
	return img[start : start+size-4], nil
}

func unzstd(p []byte) ([]byte, error) {
	// The kernel is packed with a large window (zstd -22 --ultra).
	d, err := zstd.NewReader(bytes.NewReader(p), zstd.WithDecoderMaxWindow(1<<29), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return readBounded(d)
}

func unxz(p []byte) ([]byte, error) {
	d, err := xz.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, err
	}
	return readBounded(d)
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKernel+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxKernel {
		return nil, fmt.Errorf("larger than %d bytes", maxKernel)
	}
	return b, nil
}
