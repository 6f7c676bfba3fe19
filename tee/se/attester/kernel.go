package attester

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/se"
)

// DevicePath is the kernel's way to the ultravisor.
const DevicePath = "/dev/uv"

// The kernel's <asm/uvdevice.h>.
const (
	ioctlAttest = 0xC0407501 // _IOWR('u', 1, struct uvio_ioctl_cb)
	rcExecuted  = 1
	maxUserData = 256
)

// control is struct uvio_ioctl_cb.
type control struct {
	flags    uint32
	rc, rrc  uint16
	argument uint64
	length   uint32
	_        [0x40 - 0x14]byte
}

// attestation is struct uvio_attest.
type attestation struct {
	request, measurement, additional             uint64
	userData                                     [maxUserData]byte
	cuid                                         [se.CUIDSize]byte
	requestLen, measurementLen, additionalLength uint32
	userDataLen                                  uint16
	_                                            uint16
}

// Kernel is /dev/uv as a Device. No machine here has one: it is written after the
// kernel's header and was never run against an ultravisor.
type Kernel struct{ f *os.File }

var _ Device = (*Kernel)(nil)

// OpenKernel opens the device; attest.ErrNotPresent: there is none.
func OpenKernel(path string) (*Kernel, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, attest.ErrNotPresent)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the ultravisor device: %w", err)
	}
	return &Kernel{f}, nil
}

// Attest implements Device.
func (k *Kernel) Attest(_ context.Context, request, userData []byte) (measurement, additional, cuid []byte, err error) {
	if len(userData) > maxUserData || len(request) == 0 {
		return nil, nil, nil, fmt.Errorf("%s: request of %d and user data of %d bytes", DevicePath, len(request), len(userData))
	}
	measurement, additional = make([]byte, se.MeasurementSize), make([]byte, se.AdditionalSize)
	var pin runtime.Pinner
	defer pin.Unpin()
	a := new(attestation)
	for _, p := range []any{&request[0], &measurement[0], &additional[0], a} {
		pin.Pin(p)
	}
	copy(a.userData[:], userData)
	a.request, a.requestLen = address(&request[0]), uint32(len(request))
	a.measurement, a.measurementLen = address(&measurement[0]), uint32(len(measurement))
	a.additional, a.additionalLength = address(&additional[0]), uint32(len(additional))
	a.userDataLen = uint16(len(userData))
	c := &control{argument: uint64(uintptr(unsafe.Pointer(a))), length: uint32(unsafe.Sizeof(*a))}                  //nolint:gosec // the kernel's interface takes addresses
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, k.f.Fd(), ioctlAttest, uintptr(unsafe.Pointer(c))); errno != 0 { //nolint:gosec // as above
		return nil, nil, nil, fmt.Errorf("%s: attesting: %w", DevicePath, errno)
	}
	if c.rc != rcExecuted {
		return nil, nil, nil, fmt.Errorf("%s: the ultravisor refuses: %#x, %#x", DevicePath, c.rc, c.rrc)
	}
	return measurement, additional, a.cuid[:], nil
}

func address(b *byte) uint64 { return uint64(uintptr(unsafe.Pointer(b))) } //nolint:gosec // as above

// Close closes the device.
func (k *Kernel) Close() error { return k.f.Close() }
