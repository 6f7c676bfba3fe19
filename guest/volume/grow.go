package volume

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/volume/devmapper"
	"github.com/cofferproject/coffer/guest/volume/ext4"
)

// A disk that has become larger is taken into use when it is opened: first the devices,
// with what is new in a block volume zeroed, then the header, which says how large they
// are. A guest that ends in between has changed nothing that the old header does not
// describe: dm-integrity puts new blocks behind the old ones, and containers start after
// the header. A file system's own size is in its superblock, which is authenticated as
// every block, and does not belong to the header.

// extend opens the volume's devices again, as large as they can be on a disk of size bytes.
func (v *mounted) extend(p *podpolicy.Volume, f *os.File, h *header, k *keys, size uint64, stop func() bool) error {
	// The kernel has just found out how much there is, and said so in its superblock.
	sectors, err := provided(f, p.Block)
	if err != nil {
		return err
	}
	if sectors < h.sectors {
		return fmt.Errorf("the grown disk has room for %d sectors, and before for %d", sectors, h.sectors)
	}
	if err := v.dm.remove(); err != nil {
		return err
	}
	if v.dm, err = activate(deviceID(p), v.disk, k, sectors); err != nil {
		v.dm = new(mapped)
		return fmt.Errorf("the grown disk: %w", err)
	}
	if p.Block {
		if err := wipe(v.dm.crypt.Path, int64(h.sectors)*devmapper.SectorSize, int64(sectors)*devmapper.SectorSize, stop); err != nil {
			return err
		}
	}
	now := *h
	now.disk, now.sectors = size, sectors
	v.grow = now.encode(k)
	return nil
}

// seal writes the header of a disk that has grown.
func (v *mounted) seal() error {
	f, err := os.OpenFile(v.disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeHeader(f, v.grow); err != nil {
		return err
	}
	v.grow = nil
	return nil
}

// growFilesystem makes the mounted file system as large as its device, if that has
// become larger, by whichever guest, and reports whether it did. One that cannot grow is
// as good as before, and the next guest tries again.
func (v *mounted) growFilesystem(p *podpolicy.Volume, log *slog.Logger) bool {
	grown, err := grow(filepath.Join(stateDir, p.Name), v.dm.crypt.Path)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		log.Warn("the volume's file system is of an early format, and stays as large as it was", "volume", p.Name)
	case err != nil:
		log.Error("the volume's file system stays as large as it was", "volume", p.Name, "err", err)
	}
	return grown
}

// leastGrowth is what a file system leaves of its device at most, in bytes: a group that
// has no room for more than its own tables is left out.
const leastGrowth = 4 << 20

// grow makes the file system that is mounted at dir as large as the device.
func grow(dir, device string) (bool, error) {
	d, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer d.Close()
	end, err := d.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	size := min(end, ext4.MaxSize) / blockSize * blockSize
	has, err := ext4.Size(d)
	if err != nil {
		return false, err
	}
	if size-has < leastGrowth {
		return false, nil
	}
	if err := prepare(d, has, size); err != nil {
		return false, err
	}
	fs, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer fs.Close()
	blocks := uint64(size / blockSize)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fs.Fd(), ext4Resize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return false, errno
	}
	if err := unix.Syncfs(int(fs.Fd())); err != nil {
		return false, err
	}
	now, err := ext4.Size(d)
	return now > has, err
}

// prepare writes zeros to the blocks beyond a file system's end that the kernel reads
// while it grows there, which nobody has written yet: the last one, and the first of a
// group, where with many groups more of their descriptors come. Before the end it writes
// nothing: a block there that does not authenticate stays an error.
func prepare(device io.WriterAt, has, size int64) error {
	zeros := make([]byte, blockSize)
	for at := (has + ext4.GroupSize - 1) / ext4.GroupSize * ext4.GroupSize; at < size; at += ext4.GroupSize {
		if _, err := device.WriteAt(zeros, at); err != nil {
			return fmt.Errorf("preparing a group: %w", err)
		}
	}
	if _, err := device.WriteAt(zeros, size-blockSize); err != nil {
		return fmt.Errorf("preparing the last block: %w", err)
	}
	if s, ok := device.(interface{ Sync() error }); ok {
		return s.Sync()
	}
	return nil
}

// ext4Resize is EXT4_IOC_RESIZE_FS of Linux's ext4.h.
const ext4Resize = 0x40086610
