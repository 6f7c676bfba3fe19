// Package ext4 makes an empty ext4 file system, of the few features that a pod's
// volume needs: a journal, extents, and groups whose tables need not be written
// before they are used, so that formatting takes the same time for every size.
//
// The format is that of Linux's Documentation/filesystems/ext4; e2fsck judges the
// result in the tests, and the guest's kernel in test/e2e.
//
// Trust zone: guest. The device is the guest's own, encrypted and authenticated below.
package ext4

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"
)

// BlockSize is the size of a block, in bytes.
const BlockSize = 4096

// MinSize and MaxSize bound a file system's size, in bytes.
const (
	MinSize = 16 << 20
	MaxSize = 8 << 40
)

// GroupSize is the size of a group of blocks, in bytes.
const GroupSize = blocksPerGroup * BlockSize

const (
	blocksPerGroup = 8 * BlockSize // as many as one block has bits
	inodeSize      = 256
	inodesPerBlock = BlockSize / inodeSize
	bytesPerInode  = 16 << 10
	maxInodes      = blocksPerGroup * BlockSize / bytesPerInode // of a group
	descSize       = 32
	journalBlocks  = 1024 // the least that Linux takes
	// A last group with less than this beside its tables is left out.
	leastGroup = 64
)

// Inodes with a fixed number.
const (
	rootInode    = 2
	journalInode = 8
	firstInode   = 11 // lost+found
)

// Options make a file system that two calls make alike.
type Options struct {
	UUID [16]byte
	Seed [16]byte // of the hashes of directories
	Time time.Time
}

// layout is where things are.
type layout struct {
	blocks, groups uint32
	inodes         uint32 // of a group
	tableBlocks    uint32 // of a group's inodes
	descBlocks     uint32 // of all groups' descriptors
}

func layoutOf(size int64) (layout, error) {
	if size < MinSize || size > MaxSize {
		return layout{}, fmt.Errorf("%d bytes: a file system has %d to %d", size, int64(MinSize), int64(MaxSize))
	}
	l := layout{blocks: uint32(size / BlockSize)}
	l.inodes = min(maxInodes, (l.blocks/(bytesPerInode/BlockSize)+inodesPerBlock-1)/inodesPerBlock*inodesPerBlock)
	l.tableBlocks = l.inodes / inodesPerBlock
	l.divide()
	if last := l.groups - 1; last > 0 && l.length(last) < l.used(last)+leastGroup {
		l.blocks = l.start(last)
		l.divide()
	}
	return l, nil
}

// divide divides the blocks into groups.
func (l *layout) divide() {
	l.groups = (l.blocks + blocksPerGroup - 1) / blocksPerGroup
	l.descBlocks = (l.groups*descSize + BlockSize - 1) / BlockSize
}

// backup reports whether a group begins with the superblock, or a copy of it, and all
// descriptors (sparse_super): the first, the second, and the powers of 3, 5 and 7.
func backup(group uint32) bool {
	for _, base := range []uint32{3, 5, 7} {
		n := uint64(base)
		for n < uint64(group) {
			n *= uint64(base)
		}
		if n == uint64(group) {
			return true
		}
	}
	return group <= 1
}

// start is a group's first block, and length how many it has.
func (l layout) start(group uint32) uint32 { return group * blocksPerGroup }

func (l layout) length(group uint32) uint32 {
	return min(blocksPerGroup, l.blocks-l.start(group))
}

// tables is where a group's block bitmap is; its inode bitmap and inodes follow.
func (l layout) tables(group uint32) uint32 {
	if backup(group) {
		return l.start(group) + 1 + l.descBlocks
	}
	return l.start(group)
}

// root is the root directory's block; lost+found's and the journal's follow.
func (l layout) root() uint32 { return l.tables(0) + 2 + l.tableBlocks }

// used is how many of a group's blocks are taken.
func (l layout) used(group uint32) uint32 {
	if group == 0 {
		return l.root() + 2 + journalBlocks
	}
	return l.tables(group) - l.start(group) + 2 + l.tableBlocks
}

// Format makes an empty file system of size bytes on w. What it does not write is
// never read before it was written, so that w needs no contents beforehand.
func Format(w io.WriterAt, size int64, opt Options) error {
	l, err := layoutOf(size)
	if err != nil {
		return fmt.Errorf("formatting: %w", err)
	}
	f := &formatter{w: w, layout: l, opt: opt, now: uint32(opt.Time.Unix())}
	f.superblock()
	f.descriptors()
	f.bitmaps()
	f.inodeTable()
	f.directories()
	f.journal()
	if f.err != nil {
		return fmt.Errorf("formatting: %w", f.err)
	}
	return nil
}

type formatter struct {
	layout
	w   io.WriterAt
	opt Options
	now uint32
	err error // the first
}

func (f *formatter) write(block uint32, b []byte) {
	if f.err == nil {
		_, f.err = f.w.WriteAt(b, int64(block)*BlockSize)
	}
}

var le = binary.LittleEndian

// Features, by their names in Linux.
const (
	compat   = 0x4 | 0x8 | 0x20                     // has_journal, ext_attr, dir_index
	incompat = 0x2 | 0x40                           // filetype, extent
	roCompat = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 // sparse_super, large_file, huge_file, uninit_bg, dir_nlink, extra_isize
)

// extraIsize is what an inode has beyond the old 128 bytes.
const extraIsize = 32

func (f *formatter) superblock() {
	b := make([]byte, BlockSize)
	s := b[1024:]
	var free uint32
	for g := range f.groups {
		free += f.length(g) - f.used(g)
	}
	inodes := f.groups * f.inodes
	for at, v := range map[int]uint32{
		0: inodes, 4: f.blocks, 12: free, 16: inodes - firstInode,
		24: 2, 28: 2, // blocks and clusters of 1024 << 2 bytes
		32: blocksPerGroup, 36: blocksPerGroup, 40: f.inodes,
		48: f.now, 64: f.now, 264: f.now, // written, checked, made
		76: 1, 84: firstInode,
		92: compat, 96: incompat, 100: roCompat,
		224: journalInode, 352: 1, // directory hashes are of signed characters
	} {
		le.PutUint32(s[at:], v)
	}
	for at, v := range map[int]uint16{
		54: 0xffff,               // no check after a number of mounts
		56: 0xef53, 58: 1, 60: 2, // clean; read-only after an error
		88: inodeSize, 348: extraIsize, 350: extraIsize,
	} {
		le.PutUint16(s[at:], v)
	}
	copy(s[104:], f.opt.UUID[:])
	copy(s[236:], f.opt.Seed[:])
	s[252] = 1 // half MD4
	f.write(0, b)
	for g := uint32(1); g < f.groups; g++ {
		if backup(g) {
			le.PutUint16(s[90:], uint16(g))
			f.write(f.start(g), append(slices.Clone(s[:1024]), make([]byte, BlockSize-1024)...))
		}
	}
}

// Flags of a group's descriptor.
const (
	inodesUnused = 1
	blocksUnused = 2
)

func (f *formatter) descriptors() {
	b := make([]byte, f.descBlocks*BlockSize)
	for g := range f.groups {
		d := b[g*descSize:][:descSize]
		free, unused, flags, dirs := f.inodes, f.inodes, uint16(inodesUnused), uint16(0)
		if g == 0 {
			free, unused, flags, dirs = f.inodes-firstInode, f.inodes-firstInode, 0, 2
		} else if g != f.groups-1 {
			flags |= blocksUnused
		}
		t := f.tables(g)
		le.PutUint32(d, t)
		le.PutUint32(d[4:], t+1)
		le.PutUint32(d[8:], t+2)
		le.PutUint16(d[12:], uint16(f.length(g)-f.used(g)))
		le.PutUint16(d[14:], uint16(free))
		le.PutUint16(d[16:], dirs)
		le.PutUint16(d[18:], flags)
		le.PutUint16(d[28:], uint16(unused))
		c := crc16(0xffff, f.opt.UUID[:])
		c = crc16(c, le.AppendUint32(nil, g))
		le.PutUint16(d[30:], crc16(c, d[:30]))
	}
	for g := range f.groups {
		if backup(g) {
			f.write(f.start(g)+1, b)
		}
	}
}

// crc16 is the checksum of descriptors: polynomial 0x8005, least bit first.
func crc16(c uint16, b []byte) uint16 {
	for _, v := range b {
		c ^= uint16(v)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xa001
			} else {
				c >>= 1
			}
		}
	}
	return c
}

// bitmaps writes those of the first group and the last, whose bits beyond its end
// count as taken; the kernel makes the others when it needs them.
func (f *formatter) bitmaps() {
	for g := range f.groups {
		if g != 0 && g != f.groups-1 {
			continue
		}
		b := make([]byte, BlockSize)
		set(b, 0, f.used(g))
		set(b, f.length(g), blocksPerGroup)
		f.write(f.tables(g), b)
		if g == 0 {
			b = make([]byte, BlockSize)
			set(b, 0, firstInode)
			set(b, f.inodes, blocksPerGroup)
			f.write(f.tables(g)+1, b)
		}
	}
}

func set(b []byte, from, to uint32) {
	for i := from; i < to; i++ {
		b[i/8] |= 1 << (i % 8)
	}
}

func (f *formatter) inodeTable() {
	b := make([]byte, BlockSize)
	for _, n := range []struct {
		number      uint32
		mode, links uint16
		start, len  uint32
	}{
		{rootInode, 0o040755, 3, f.root(), 1},
		{journalInode, 0o100600, 1, f.root() + 2, journalBlocks},
		{firstInode, 0o040700, 2, f.root() + 1, 1},
	} {
		i := b[(n.number-1)*inodeSize:][:inodeSize]
		le.PutUint16(i, n.mode)
		le.PutUint32(i[4:], n.len*BlockSize)
		for _, at := range []int{8, 12, 16, 144} { // accessed, changed, modified, made
			le.PutUint32(i[at:], f.now)
		}
		le.PutUint16(i[26:], n.links)
		le.PutUint32(i[28:], n.len*BlockSize/512)
		le.PutUint32(i[32:], 0x80000) // has extents: one, in the inode itself
		x := i[40:]
		le.PutUint16(x, 0xf30a)
		le.PutUint16(x[2:], 1)
		le.PutUint16(x[4:], 4)
		le.PutUint16(x[16:], uint16(n.len))
		le.PutUint32(x[20:], n.start)
		le.PutUint16(i[128:], extraIsize)
	}
	f.write(f.tables(0)+2, b)
}

func (f *formatter) directories() {
	const directory = 2
	type entry struct {
		inode uint32
		name  string
	}
	for i, entries := range [][]entry{
		{{rootInode, "."}, {rootInode, ".."}, {firstInode, "lost+found"}},
		{{firstInode, "."}, {rootInode, ".."}},
	} {
		b := make([]byte, BlockSize)
		at := 0
		for j, e := range entries {
			n := 8 + (len(e.name)+3)/4*4
			if j == len(entries)-1 {
				n = BlockSize - at
			}
			le.PutUint32(b[at:], e.inode)
			le.PutUint16(b[at+4:], uint16(n))
			b[at+6], b[at+7] = byte(len(e.name)), directory
			copy(b[at+8:], e.name)
			at += n
		}
		f.write(f.root()+uint32(i), b)
	}
}

// journal writes all of it: after a crash, recovery reads on beyond the last
// transaction.
func (f *formatter) journal() {
	b := make([]byte, journalBlocks*BlockSize)
	be := binary.BigEndian
	for at, v := range map[int]uint32{
		0: 0xc03b3998, 4: 4, // a superblock, version 2
		12: BlockSize, 16: journalBlocks, 20: 1, 24: 1, // first block and transaction
		64: 1, // one user
	} {
		be.PutUint32(b[at:], v)
	}
	copy(b[48:], f.opt.UUID[:])
	f.write(f.root()+2, b)
}
