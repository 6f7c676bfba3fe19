package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Where the superblock has what Size reads.
const (
	atSuperblock  = 1024
	atBlocks      = 4
	atMagic       = 56
	atIncompat    = 96
	atBlocksHigh  = 0x150
	superblockEnd = 0x154
	magic         = 0xef53
	feature64     = 0x80
)

// Size reads how large a file system is, in bytes, whoever made it with this package's
// size of blocks.
func Size(r io.ReaderAt) (int64, error) {
	b := make([]byte, superblockEnd)
	if _, err := r.ReadAt(b, atSuperblock); err != nil {
		return 0, fmt.Errorf("reading the file system's superblock: %w", err)
	}
	if binary.LittleEndian.Uint16(b[atMagic:]) != magic {
		return 0, errors.New("no file system's superblock")
	}
	blocks := uint64(binary.LittleEndian.Uint32(b[atBlocks:]))
	if binary.LittleEndian.Uint32(b[atIncompat:])&feature64 != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(b[atBlocksHigh:])) << 32
	}
	if blocks > MaxSize/BlockSize {
		return 0, fmt.Errorf("a file system of %d blocks", blocks)
	}
	return int64(blocks) * BlockSize, nil
}
