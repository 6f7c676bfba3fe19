package nsm

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Path is the kernel's device (driver "nsm", Linux 6.8).
const Path = "/dev/nsm"

// ioctlRaw is NSM_IOCTL_RAW: _IOWR(0x0a, 0, struct nsm_raw).
const ioctlRaw = 0xc0200a00

// raw is struct nsm_raw of linux/nsm.h: where the request is and where the
// response may go, with their lengths.
type raw struct {
	request  unsafe.Pointer
	reqSize  uint64
	response unsafe.Pointer
	respSize uint64
}

// Kernel is the module of this machine.
type Kernel struct{ f *os.File }

// OpenKernel opens the device; os.ErrNotExist where there is none.
func OpenKernel() (*Kernel, error) {
	f, err := os.OpenFile(Path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the Nitro Secure Module: %w", err)
	}
	return &Kernel{f}, nil
}

// NSM passes one request. The kernel has no way to give it up early.
func (k *Kernel) NSM(ctx context.Context, request []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(request) == 0 || len(request) > MaxRequest {
		return nil, fmt.Errorf("request of %d bytes", len(request))
	}
	response := make([]byte, MaxResponse)
	r := raw{
		request: unsafe.Pointer(unsafe.SliceData(request)), reqSize: uint64(len(request)), //nolint:gosec // the ioctl takes addresses; both buffers outlive it
		response: unsafe.Pointer(unsafe.SliceData(response)), respSize: uint64(len(response)), //nolint:gosec // see above
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, k.f.Fd(), ioctlRaw, uintptr(unsafe.Pointer(&r))) //nolint:gosec // see above
	runtime.KeepAlive(request)
	if errno != 0 {
		return nil, fmt.Errorf("asking the Nitro Secure Module: %w", errno)
	}
	if r.respSize > MaxResponse {
		return nil, fmt.Errorf("response of %d bytes", r.respSize)
	}
	return response[:r.respSize], nil
}

// Close closes the device.
func (k *Kernel) Close() error { return k.f.Close() }
