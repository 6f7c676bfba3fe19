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
	"github.com/cofferproject/coffer/tee/attest/configfs"
	"github.com/cofferproject/coffer/tee/snp"
)

// DevicePath is the kernel's older way to the secure processor.
const DevicePath = "/dev/sev-guest"

// The kernel's <linux/sev-guest.h>.
const (
	ioctlExtReport = 0xC0205302 // _IOWR('S', 2, struct snp_guest_request_ioctl)
	messageVersion = 1
	certsSize      = 0x4000 // SEV_FW_BLOB_MAX_SIZE, a multiple of the page size
	responseHead   = 0x20   // MSG_REPORT_RSP before the report: status, size, reserved
)

// guestRequest is struct snp_guest_request_ioctl.
type guestRequest struct {
	version  uint8
	_        [7]byte
	request  uint64
	response uint64
	exitInfo uint64 // firmware's error in the lower half, hypervisor's in the upper
}

// extRequest is struct snp_ext_report_req.
type extRequest struct {
	reportData [64]byte
	vmpl       uint32
	_          [28]byte
	certs      uint64
	certsLen   uint32
	_          [4]byte
}

// Device is /dev/sev-guest as an attest.Reporter.
type Device struct {
	mu sync.Mutex
	f  *os.File
	// call is the system call; tests put a fake in its place.
	call func(fd uintptr, r *guestRequest) error
}

// OpenDevice opens the device; attest.ErrNotPresent: there is none.
func OpenDevice(path string) (*Device, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, attest.ErrNotPresent)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the SEV guest device: %w", err)
	}
	return &Device{f: f, call: ioctl}, nil
}

// Provider implements attest.Reporter.
func (d *Device) Provider() string { return configfs.SNP }

// Report implements attest.Reporter.
func (d *Device) Report(_ context.Context, inblob []byte) (outblob, auxblob []byte, err error) {
	if len(inblob) > 64 {
		return nil, nil, fmt.Errorf("sev-guest: %d bytes of report data, at most 64", len(inblob))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var pin runtime.Pinner
	defer pin.Unpin()
	certs, rsp, req := make([]byte, certsSize), make([]byte, 4000), new(extRequest)
	pin.Pin(&certs[0])
	pin.Pin(&rsp[0])
	pin.Pin(req)
	copy(req.reportData[:], inblob)
	req.certs, req.certsLen = uint64(uintptr(unsafe.Pointer(&certs[0]))), certsSize //nolint:gosec // the kernel's interface takes addresses
	r := &guestRequest{
		version:  messageVersion,
		request:  uint64(uintptr(unsafe.Pointer(req))),     //nolint:gosec // as above
		response: uint64(uintptr(unsafe.Pointer(&rsp[0]))), //nolint:gosec // as above
	}
	if err := d.call(d.f.Fd(), r); err != nil {
		return nil, nil, fmt.Errorf("sev-guest: asking for a report: %w (firmware error %#x, hypervisor error %#x)", err, uint32(r.exitInfo), r.exitInfo>>32)
	}
	if status, size := binary.LittleEndian.Uint32(rsp), binary.LittleEndian.Uint32(rsp[4:]); status != 0 || size != snp.ReportSize {
		return nil, nil, fmt.Errorf("sev-guest: response with status %#x and %d bytes", status, size)
	}
	return rsp[responseHead : responseHead+snp.ReportSize], certs, nil
}

// Close closes the device.
func (d *Device) Close() error { return d.f.Close() }

func ioctl(fd uintptr, r *guestRequest) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, ioctlExtReport, uintptr(unsafe.Pointer(r))) //nolint:gosec // the kernel's interface takes an address
	if errno != 0 {
		return errno
	}
	return nil
}
