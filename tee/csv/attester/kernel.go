package attester

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/csv"
)

// DevicePath is the kernel's way to the secure processor.
const DevicePath = "/dev/csv-guest"

// The driver's interface.
const (
	ioctlReport = 0xC0104401 // _IOWR('D', 1, struct of 16 bytes)
	ioctlRTMR   = 0xC0184402 // _IOWR('D', 2, struct of 24 bytes)
	rtmrRead    = 3
	rtmrExtend  = 4
)

type reportIoctl struct {
	addr uint64
	len  uint32
	_    uint32
}

type rtmrIoctl struct {
	addr    uint64
	len     uint64
	command uint16
	_       uint16
	fwError uint32
}

// Kernel is /dev/csv-guest as a Device. No machine here has one: it is written
// after the published library and tested against a fake.
type Kernel struct {
	mu sync.Mutex
	f  *os.File
	// report and rtmr are the system calls; tests put fakes in their place.
	report func(fd uintptr, buf []byte) error
	rtmr   func(fd uintptr, command uint16, buf []byte) (fwError uint32, err error)
}

var _ Device = (*Kernel)(nil)

// OpenKernel opens the device; attest.ErrNotPresent: there is none.
func OpenKernel(path string) (*Kernel, error) {
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, attest.ErrNotPresent)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the CSV guest device: %w", err)
	}
	return &Kernel{f: f, report: callReport, rtmr: callRTMR}, nil
}

// Report implements Device.
func (k *Kernel) Report(_ context.Context, request []byte) ([]byte, error) {
	buf := make([]byte, csv.ReportSize)
	copy(buf, request)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.report(k.f.Fd(), buf); err != nil {
		return nil, fmt.Errorf("csv-guest: asking for a report: %w", err)
	}
	return buf, nil
}

// ReadRTMR implements Device.
func (k *Kernel) ReadRTMR(_ context.Context, register int) ([]byte, error) {
	buf := binary.LittleEndian.AppendUint32(nil, 1<<register)
	buf = append(buf, make([]byte, csv.RTMRSize)...)
	if err := k.register(rtmrRead, buf); err != nil {
		return nil, fmt.Errorf("csv-guest: reading register %d: %w", register, err)
	}
	return buf[4:], nil
}

// ExtendRTMR implements Device.
func (k *Kernel) ExtendRTMR(_ context.Context, register int, digest []byte) error {
	buf := append([]byte{byte(register), 0, csv.RTMRSize, 0}, digest...)
	if err := k.register(rtmrExtend, buf); err != nil {
		return fmt.Errorf("csv-guest: extending register %d: %w", register, err)
	}
	return nil
}

func (k *Kernel) register(command uint16, buf []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	code, err := k.rtmr(k.f.Fd(), command, buf)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("firmware error %#x", code)
	}
	return nil
}

// Close closes the device.
func (k *Kernel) Close() error { return k.f.Close() }

func callReport(fd uintptr, buf []byte) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&buf[0])
	r := &reportIoctl{addr: uint64(uintptr(unsafe.Pointer(&buf[0]))), len: uint32(len(buf))} //nolint:gosec // the kernel's interface takes addresses
	return ioctl(fd, ioctlReport, unsafe.Pointer(r))                                         //nolint:gosec // as above
}

func callRTMR(fd uintptr, command uint16, buf []byte) (uint32, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&buf[0])
	r := &rtmrIoctl{addr: uint64(uintptr(unsafe.Pointer(&buf[0]))), len: uint64(len(buf)), command: command} //nolint:gosec // as above
	err := ioctl(fd, ioctlRTMR, unsafe.Pointer(r))                                                           //nolint:gosec // as above
	return r.fwError, err
}

func ioctl(fd, number uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, number, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
