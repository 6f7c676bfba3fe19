package volume

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/volume/devmapper"
	"github.com/cofferproject/coffer/guest/volume/ext4"
)

// Where things are on a disk, in bytes: the header, zeros, and from reserved on what
// dm-integrity keeps: its superblock, its journal, and data with their tags.
const (
	reserved = 1 << 20
	minDisk  = podpolicy.MinDisk
)

// blockSize is the unit that is encrypted and authenticated as one, in bytes.
const blockSize = 4096

// A block's tag is the MAC and the initialisation vector, which is random for every
// write (dm-crypt's documentation, "integrity").
const (
	cryptSpec = "capi:authenc(hmac(sha256),xts(aes))-random"
	tagSize   = 32 + 16
)

// mapped is a disk's two devices, one on the other.
type mapped struct {
	integrity, crypt *devmapper.Device
}

// remove ends both, which flushes them.
func (m *mapped) remove() error {
	for _, d := range []**devmapper.Device{&m.crypt, &m.integrity} {
		if *d == nil {
			continue
		}
		if err := (*d).Remove(); err != nil {
			return err
		}
		*d = nil
	}
	return nil
}

// activate opens a disk's devices; sectors is the volume's size.
func activate(id, disk string, k *keys, sectors uint64) (*mapped, error) {
	m := new(mapped)
	var err error
	if m.integrity, err = integrity(id, disk, k, sectors); err != nil {
		return nil, err
	}
	if err := guarded(m.integrity); err != nil {
		return nil, errors.Join(err, m.remove())
	}
	params := fmt.Appendf(nil, "%s %s 0 %s 0 2 integrity:%d:aead sector_size:%d", cryptSpec, hex.AppendEncode(nil, k.crypt), m.integrity.Path, tagSize, blockSize)
	defer clear(params)
	if m.crypt, err = devmapper.Create(id+"-crypt", devmapper.Target{Type: "crypt", Sectors: sectors, Params: params}); err != nil {
		return nil, errors.Join(err, m.remove())
	}
	return m, nil
}

// guarded reports whether dm-integrity's journal and superblock are under their MAC. The
// kernel takes that from the superblock, which is the host's, and not from its table.
func guarded(d *devmapper.Device) error {
	params, err := d.Params()
	if err != nil {
		return err
	}
	defer clear(params)
	for _, want := range []string{" fix_hmac", " fix_padding", " journal_mac:hmac(sha256):"} {
		if !bytes.Contains(append(params, ' '), []byte(want)) {
			return fmt.Errorf("the superblock was changed: no%s", strings.TrimSuffix(want, ":"))
		}
	}
	return nil
}

// integrity opens the lower device: it keeps a tag beside each block, both or none of
// which survive a crash, by a journal that is authenticated too.
func integrity(id, disk string, k *keys, sectors uint64) (*devmapper.Device, error) {
	params := fmt.Appendf(nil, "%s %d %d J 5 block_size:%d journal_sectors:%d fix_padding fix_hmac journal_mac:hmac(sha256):%s",
		disk, reserved/devmapper.SectorSize, tagSize, blockSize, journalSectors, hex.AppendEncode(nil, k.journal))
	defer clear(params)
	return devmapper.Create(id+"-integrity", devmapper.Target{Type: "integrity", Sectors: sectors, Params: params})
}

// journalSectors is the size of dm-integrity's journal: 4 MiB.
const journalSectors = 8192

// format makes a new volume on a disk, of whose contents nothing remains. The header
// comes last (seal): a guest that ends before leaves a disk that counts as empty.
// fill makes the mapped device what containers find: a device as it is, or a file system.
func format(id, disk string, k *keys, block bool, fill func(device string, size int64) error) (_ *mapped, sectors uint64, err error) {
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	// Without a superblock dm-integrity makes one.
	if _, err := f.WriteAt(make([]byte, reserved+blockSize), 0); err != nil {
		return nil, 0, fmt.Errorf("clearing the disk's beginning: %w", err)
	}
	if err := f.Sync(); err != nil {
		return nil, 0, fmt.Errorf("clearing the disk's beginning: %w", err)
	}
	// How much room there is beside tags and journal is only known then.
	d, err := integrity(id, disk, k, blockSize/devmapper.SectorSize)
	if err != nil {
		return nil, 0, err
	}
	if err := d.Remove(); err != nil {
		return nil, 0, err
	}
	if sectors, err = provided(f, block); err != nil {
		return nil, 0, err
	}
	m, err := activate(id, disk, k, sectors)
	if err != nil {
		return nil, 0, err
	}
	if err := fill(m.crypt.Path, int64(sectors)*devmapper.SectorSize); err != nil {
		return nil, 0, errors.Join(err, m.remove())
	}
	return m, sectors, nil
}

// superblock is what dm-integrity's begins with.
const superblock = "integrt\x00"

// existing refuses a disk without one: the kernel would make a new one, and forget a
// journal that holds what a guest was promised to be safe.
func existing(f *os.File) error {
	b := make([]byte, len(superblock))
	if _, err := f.ReadAt(b, reserved); err != nil {
		return fmt.Errorf("reading the superblock: %w", err)
	}
	if string(b) != superblock {
		return errors.New("its superblock is gone")
	}
	return nil
}

// provided reads from dm-integrity's superblock how many sectors there are for data.
// It was read by the kernel from the same disk a moment ago; a host that changed it
// since makes the next activation fail, or a smaller volume.
func provided(f *os.File, block bool) (uint64, error) {
	b := make([]byte, blockSize)
	// The kernel wrote it past this descriptor's cache.
	if err := dropCache(f); err != nil {
		return 0, err
	}
	if _, err := f.ReadAt(b, reserved); err != nil {
		return 0, fmt.Errorf("reading the superblock: %w", err)
	}
	if !bytes.HasPrefix(b, []byte(superblock)) {
		return 0, errors.New("the kernel's superblock is not on the disk")
	}
	n := binary.LittleEndian.Uint64(b[16:]) &^ (blockSize/devmapper.SectorSize - 1)
	if !block {
		n = min(n, ext4.MaxSize/devmapper.SectorSize) // a file system has no use for more
	}
	if n > maxSectors {
		return 0, fmt.Errorf("its superblock has room for %d sectors, and a volume has at most %d", n, uint64(maxSectors))
	}
	return n, nil
}

// maxSectors is the size of the largest volume, 1 PiB.
const maxSectors = 1 << 41

// makeFilesystem formats the device.
func makeFilesystem(device string, size int64) error {
	var opt ext4.Options
	_, _ = rand.Read(opt.UUID[:]) // never fails
	_, _ = rand.Read(opt.Seed[:])
	opt.Time = time.Unix(0, 0) // the guest's clock is nobody's to believe
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := ext4.Format(f, size, opt); err != nil {
		return err
	}
	return f.Sync()
}

// wipeChunk is how much is zeroed by one request to the kernel, in bytes.
const wipeChunk = 64 << 20

// wipe writes zeros to a device from an offset on: what was never written has no tag, and
// nobody could read it. stop ends it early.
func wipe(device string, from, size int64, stop func() bool) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for at := from; at < size; at += wipeChunk {
		if stop() {
			return errors.New("wiping the volume: the pod ends")
		}
		span := [2]uint64{uint64(at), uint64(min(wipeChunk, size-at))}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&span))); errno != 0 {
			return fmt.Errorf("wiping the volume: %w", errno)
		}
	}
	return f.Sync()
}

// blkZeroOut is BLKZEROOUT of Linux's fs.h.
const blkZeroOut = 0x127f

// readHeader reads a disk's header and size, which is at least limit bytes.
func readHeader(f *os.File, limit int64) (head []byte, size uint64, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the disk's size: %w", err)
	}
	if end < max(minDisk, limit) {
		return nil, 0, fmt.Errorf("%w: %d bytes", errSmall, end)
	}
	head = make([]byte, HeaderSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, 0, fmt.Errorf("reading the disk's header: %w", err)
	}
	return head, uint64(end), nil
}

// errSmall: too small for a volume.
var errSmall = errors.New("the disk is too small")

// seal writes the header, which makes the disk a volume that can be opened again.
func seal(f *os.File, h *header, k *keys) error {
	return writeHeader(f, h.encode(k))
}

func writeHeader(f *os.File, head []byte) error {
	if _, err := f.WriteAt(head, 0); err != nil {
		return fmt.Errorf("writing the volume's header: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing the volume's header: %w", err)
	}
	return nil
}
