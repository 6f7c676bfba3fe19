// Package devmapper makes and removes devices of Linux's device mapper, each of one
// target, by the kernel's own interface (Linux's dm-ioctl.h, version 4): there is no
// udev and no library in the guest.
//
// Trust zone: guest. Tables hold keys: they are the caller's to clear, and the kernel
// clears its own copies.
package devmapper

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control is the device that takes the requests.
const control = "/dev/mapper/control"

// SectorSize is the unit of lengths, in bytes.
const SectorSize = 512

// Target is a device's whole table.
type Target struct {
	Type    string // "crypt", "integrity"
	Sectors uint64
	Params  []byte // as the target's documentation in Linux says
}

// Device is a mapped device.
type Device struct {
	Path   string // "/dev/dm-0"
	Number uint64 // major and minor, as in a stat's rdev
	name   string
}

// Create makes the device of that name. What fails leaves none behind.
func Create(name string, t Target) (*Device, error) {
	h, err := call(unix.DM_DEV_CREATE, name, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("making device %s: %w", name, err)
	}
	d := &Device{Path: filepath.Join("/dev", fmt.Sprintf("dm-%d", unix.Minor(h.Dev))), Number: h.Dev, name: name}
	table := encode(t)
	defer clear(table)
	if _, err = call(unix.DM_TABLE_LOAD, name, unix.DM_SECURE_DATA_FLAG, table); err == nil {
		_, err = call(unix.DM_DEV_SUSPEND, name, 0, nil) // without the flag of suspension: resume
	}
	if err == nil {
		_, err = os.Stat(d.Path)
	}
	if err != nil {
		_ = d.Remove()
		return nil, fmt.Errorf("making device %s (%s): %w", name, t.Type, err)
	}
	return d, nil
}

// maxTable bounds what the kernel says of a table, in bytes.
const maxTable = 16 << 10

// Params gives the table's parameters as the kernel holds them, keys among them: the
// caller clears them.
func (d *Device) Params() ([]byte, error) {
	b := make([]byte, maxTable)
	h, err := call(unix.DM_TABLE_STATUS, d.name, unix.DM_STATUS_TABLE_FLAG|unix.DM_SECURE_DATA_FLAG, b)
	if err == nil && (h.Target_count != 1 || h.Flags&unix.DM_BUFFER_FULL_FLAG != 0) {
		err = fmt.Errorf("%d targets, or more than %d bytes", h.Target_count, maxTable)
	}
	if err != nil {
		clear(b)
		return nil, fmt.Errorf("reading the table of device %s: %w", d.name, err)
	}
	params, _, _ := bytes.Cut(b[specSize:], []byte{0})
	return params, nil
}

// Remove ends the device, which nobody may use any more.
func (d *Device) Remove() error {
	if _, err := call(unix.DM_DEV_REMOVE, d.name, 0, nil); err != nil {
		return fmt.Errorf("removing device %s: %w", d.name, err)
	}
	return nil
}

// Sizes of the interface's structures, in bytes.
const (
	headerSize = int(unsafe.Sizeof(unix.DmIoctl{}))
	specSize   = int(unsafe.Sizeof(unix.DmTargetSpec{}))
)

// encode gives a table of one target: its specification, its parameters, a NUL, and
// zeros up to a multiple of eight bytes.
func encode(t Target) []byte {
	b := make([]byte, (specSize+len(t.Params)+1+7)/8*8)
	var s unix.DmTargetSpec
	binary.NativeEndian.PutUint64(b[unsafe.Offsetof(s.Length):], t.Sectors)
	copy(b[unsafe.Offsetof(s.Target_type):specSize-1], t.Type)
	copy(b[specSize:], t.Params)
	return b
}

// call makes one request; table is what follows its header, and what the kernel answers
// there.
func call(request uint, name string, flags uint32, table []byte) (*unix.DmIoctl, error) {
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("the kernel has no device mapper: %w", err)
	}
	defer f.Close()
	// Uint64s, since the kernel's structure is aligned so.
	words := make([]uint64, (headerSize+len(table)+7)/8)
	h := (*unix.DmIoctl)(unsafe.Pointer(&words[0]))
	b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))
	defer clear(b[headerSize:])
	h.Version = [3]uint32{unix.DM_VERSION_MAJOR}
	h.Data_size, h.Data_start, h.Flags = uint32(len(b)), uint32(headerSize), flags
	if request == unix.DM_TABLE_LOAD {
		h.Target_count = 1
	}
	if len(name) >= len(h.Name) {
		return nil, fmt.Errorf("name of %d bytes", len(name))
	}
	copy(h.Name[:], name)
	copy(b[headerSize:], table)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(h))); errno != 0 {
		return nil, errno
	}
	copy(table, b[headerSize:])
	out := *h
	return &out, nil
}
