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
)

// A disk that has become larger is taken into use when it is opened: first the devices,
// then what is on them, then the header. A guest that ends in between has changed nothing
// that the old header does not describe: dm-integrity puts new blocks behind the old ones,
// and containers start after the header.

// extend opens the volume's devices again, as large as they can be on a disk of size bytes.
// What is new in a block volume is zeroed.
func (v *mounted) extend(p *podpolicy.Volume, f *os.File, h *header, k *keys, size uint64) error {
	// The kernel has just found out how much there is, and said so in its superblock.
	sectors, err := provided(f)
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
		err = wipeFrom(v.dm.crypt.Path, int64(h.sectors)*devmapper.SectorSize, int64(sectors)*devmapper.SectorSize)
	} else {
		err = readable(v.dm.crypt.Path, int64(sectors)*devmapper.SectorSize-blockSize)
	}
	if err != nil {
		return err
	}
	now := *h
	now.disk, now.sectors = size, sectors
	v.grow = now.encode(k)
	return nil
}

// readable has a block of zeros where none was ever written: the kernel looks at a grown
// file system's last one.
func readable(device string, at int64) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, blockSize)
	if _, err := f.ReadAt(b, at); err == nil {
		return nil
	}
	clear(b)
	if _, err := f.WriteAt(b, at); err != nil {
		return fmt.Errorf("writing the last block: %w", err)
	}
	return f.Sync()
}

// grown makes the file system as large as its device, and writes the header.
func (v *mounted) grown(p *podpolicy.Volume, log *slog.Logger) error {
	if !p.Block {
		switch err := resize(filepath.Join(stateDir, p.Name), v.dm.crypt.Path); {
		case errors.Is(err, unix.EOPNOTSUPP):
			log.Warn("the volume's file system is of an early format, and stays as large as it was", "volume", p.Name)
			return nil
		case err != nil:
			return fmt.Errorf("growing its file system: %w", err)
		}
	}
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

// ext4Resize is EXT4_IOC_RESIZE_FS of Linux's ext4.h.
const ext4Resize = 0x40086610

// resize makes the file system that is mounted at dir as large as the device.
func resize(dir, device string) error {
	d, err := os.Open(device)
	if err != nil {
		return err
	}
	defer d.Close()
	size, err := d.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	fs, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer fs.Close()
	blocks := uint64(size) / blockSize
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fs.Fd(), ext4Resize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return errno
	}
	return unix.Syncfs(int(fs.Fd()))
}
