package vmm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/launch"
)

// sectorSize is what a disk of a VM has a whole number of, in bytes.
const sectorSize = 512

// diskSlot is the PCI slot whose eight functions are the volumes' disks: behind those
// of network cards and of host devices.
const diskSlot = 0x1c

// diskSet is the first fd set of disks.
const diskSet = 16

// disks gives the guest its disks for volumes. The guest says when what it wrote must
// be safe, so the host may keep the rest in its page cache.
// A host without room is an error of that write, and does not stop the machine.
func (a *args) disks(b bus, spec *launch.Spec, paths Paths) {
	for i, d := range paths.Disks {
		driver := "file"
		if d.Block {
			driver = "host_device"
		}
		a.fdset(diskSet+i, d.FD)
		a.add("-blockdev", fmt.Sprintf("driver=%s,node-name=disk%d,filename=/dev/fdset/%d,locking=off", driver, i, diskSet+i))
		a.add("-device", b.function("virtio-blk", fmt.Sprintf("drive=disk%d", i), diskSlot, i)+",serial="+spec.Disks[i].Serial+",werror=report,rerror=report")
	}
}

// scratchDir is where disks without a name are: a file system for large files that
// the machine does not need to keep.
const scratchDir = "/var/tmp"

// openDisks opens the disks of a launch, each for this launch alone.
func (in *inputs) openDisks(spec *launch.Spec) error {
	for i := range spec.Disks {
		d := &spec.Disks[i]
		f, block, err := OpenDisk(d)
		if err != nil {
			return fmt.Errorf("opening disk %s: %w", d.Serial, err)
		}
		in.paths.Disks = append(in.paths.Disks, DiskPath{in.add(f), block})
	}
	return nil
}

// OpenDisk opens a disk for one guest: nobody else gets it until the file is closed. It
// says whether it is a block device.
func OpenDisk(d *launch.Disk) (*os.File, bool, error) {
	if d.Path == "" {
		f, err := scratchDisk(d.Bytes)
		return f, false, err
	}
	// Not blocking: a FIFO would have no other end.
	f, err := os.OpenFile(d.Path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, err
	}
	block, err := claimDisk(f)
	if err != nil {
		_ = f.Close()
		return nil, false, fmt.Errorf("%s: %w", d.Path, err)
	}
	return f, block, nil
}

// claimDisk checks that f can be a disk, and takes it: the lock belongs to the open
// file, and so to QEMU too until it ends.
func claimDisk(f *os.File) (block bool, err error) {
	fi, err := f.Stat()
	if err != nil {
		return false, err
	}
	switch m := fi.Mode(); {
	case m.IsRegular():
		if fi.Size()%sectorSize != 0 || fi.Size() == 0 {
			return false, fmt.Errorf("%d bytes are no disk: they must be a multiple of %d", fi.Size(), sectorSize)
		}
	case m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0:
		block = true
	default:
		return false, errors.New("neither a regular file nor a block device")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, errors.New("in use by another guest")
		}
		return false, err
	}
	return block, unix.SetNonblock(int(f.Fd()), false)
}

// scratchDisk makes a file without a name: it takes the room that is written, and goes
// with its last user, however that ends.
func scratchDisk(size int64) (*os.File, error) {
	fd, err := unix.Open(scratchDir, unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making a file in %s: %w", scratchDir, err)
	}
	f := os.NewFile(uintptr(fd), "disk")
	if err := f.Truncate(size); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("making a file in %s: %w", scratchDir, err)
	}
	return f, nil
}
