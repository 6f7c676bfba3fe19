package attester

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/tdx"
)

// Where the kernel has the TDX guest driver.
const (
	// Measurements has one file for each register, from kernel 6.16 on
	// (Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest).
	Measurements = "/sys/devices/virtual/misc/tdx_guest/measurements"
	Device       = "/dev/tdx_guest"
)

// kernel reads registers from sysfs; where the kernel is older, from a TDREPORT,
// which has them too but lets no register be extended.
type kernel struct{ measurements, device string }

func (k kernel) ConfigID(context.Context) ([]byte, error) {
	return k.read("mrconfigid", offsetConfigID)
}

func (k kernel) RTMR(_ context.Context, register int) ([]byte, error) {
	return k.read(rtmrFile(register), offsetRTMR+register*tdx.RTMRSize)
}

func (k kernel) ExtendRTMR(_ context.Context, register int, digest []byte) error {
	f, err := os.OpenFile(filepath.Join(k.measurements, rtmrFile(register)), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("tdx attester: extending RTMR %d: %w", register, attest.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("tdx attester: %w", err)
	}
	_, err = f.Write(digest) // in one call, as the attribute wants it
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("tdx attester: extending RTMR %d: %w", register, err)
	}
	return nil
}

func rtmrFile(register int) string { return fmt.Sprintf("rtmr%d:sha384", register) }

func (k kernel) read(name string, offset int) ([]byte, error) {
	f, err := os.Open(filepath.Join(k.measurements, name))
	if errors.Is(err, fs.ErrNotExist) {
		return k.fromReport(offset)
	}
	if err != nil {
		return nil, fmt.Errorf("tdx attester: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, tdx.RTMRSize+1))
	if err != nil {
		return nil, fmt.Errorf("tdx attester: reading %s: %w", name, err)
	}
	return b, nil
}

// A TDREPORT (Intel TDX module ABI, TDREPORT_STRUCT) has TDINFO at 512: attributes, XFAM,
// MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG, RTMR 0 to 3.
const (
	offsetConfigID = 512 + 8 + 8 + 48
	offsetRTMR     = offsetConfigID + 3*48
)

// reportRequest is struct tdx_report_req of linux/tdx-guest.h.
type reportRequest struct {
	ReportData [64]byte
	Report     [1024]byte
}

// getReport0 is TDX_CMD_GET_REPORT0: _IOWR('T', 1, struct tdx_report_req).
const getReport0 = 3<<30 | unsafe.Sizeof(reportRequest{})<<16 | 'T'<<8 | 1

func (k kernel) fromReport(offset int) ([]byte, error) {
	f, err := os.OpenFile(k.device, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("tdx attester: %w", attest.ErrNotPresent)
	}
	if err != nil {
		return nil, fmt.Errorf("tdx attester: %w", err)
	}
	defer f.Close()
	r := new(reportRequest)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), getReport0, uintptr(unsafe.Pointer(r))) //nolint:gosec // the request's argument
	if errno != 0 {
		return nil, fmt.Errorf("tdx attester: TDREPORT: %w", errno)
	}
	return r.Report[offset : offset+tdx.RTMRSize], nil
}
