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
	"github.com/cofferproject/coffer/tee/intel/quote"
)

// OcclumDevice is Occlum's device inside the enclave.
const OcclumDevice = "/dev/sgx"

// reportSize is that of sgx_report_t: body, key id, MAC.
const reportSize = quote.EnclaveSize + 32 + 16

// Requests of the device (Occlum, src/libos/src/fs/dev_fs/dev_sgx). The tests
// spell their numbers.
const (
	occlumCreateReport = 3<<30 | unsafe.Sizeof(reportArg{})<<16 | 's'<<8 | 4
	occlumQuoteSize    = 2<<30 | 4<<16 | 's'<<8 | 7
	occlumQuote        = 3<<30 | unsafe.Sizeof(quoteArg{})<<16 | 's'<<8 | 8
)

type reportArg struct {
	target, data unsafe.Pointer // both may be nil
	report       *[reportSize]byte
}

type quoteArg struct {
	data *[64]byte
	size *uint32 // in: of the buffer; out: of the quote
	buf  *byte
}

type occlum struct{ device string }

// openOcclum believes the variable that Occlum sets in every process, and the device.
func openOcclum(device string) (LibraryOS, error) {
	if _, ok := os.LookupEnv("OCCLUM"); !ok {
		return nil, fmt.Errorf("occlum: %w", attest.ErrNotPresent)
	}
	if _, err := os.Stat(device); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("occlum: no %s, though OCCLUM is set", device)
	} else if err != nil {
		return nil, fmt.Errorf("occlum: %w", err)
	}
	return occlum{device}, nil
}

func (o occlum) Quote(_ context.Context, reportData []byte) ([]byte, error) {
	var data [64]byte
	if copy(data[:], reportData) != len(reportData) {
		return nil, errors.New("occlum: report data longer than 64 bytes")
	}
	var out []byte
	err := o.with(func(fd uintptr) error {
		var size uint32
		if err := ioctl(fd, occlumQuoteSize, unsafe.Pointer(&size)); err != nil { //nolint:gosec // the request's argument, 4 bytes
			return err
		}
		if size == 0 || size > quote.MaxSize {
			return fmt.Errorf("quote of %d bytes", size)
		}
		out = make([]byte, size)
		arg := quoteArg{&data, &size, &out[0]}
		if err := ioctl(fd, occlumQuote, unsafe.Pointer(&arg)); err != nil { //nolint:gosec // the request's argument, its buffers sized above
			return err
		}
		if int(size) > len(out) {
			return fmt.Errorf("quote of %d bytes in %d", size, len(out))
		}
		out = out[:size]
		return nil
	})
	return out, err
}

func (o occlum) Report(context.Context) ([]byte, error) {
	r := new([reportSize]byte)
	err := o.with(func(fd uintptr) error {
		arg := reportArg{report: r}
		return ioctl(fd, occlumCreateReport, unsafe.Pointer(&arg)) //nolint:gosec // the request's argument
	})
	return r[:], err
}

func (o occlum) with(f func(fd uintptr) error) error {
	dev, err := os.OpenFile(o.device, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := f(dev.Fd()); err != nil {
		return fmt.Errorf("%s: %w", o.device, err)
	}
	return nil
}

func ioctl(fd, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg))
	runtime.KeepAlive(arg)
	if errno != 0 {
		return errno
	}
	return nil
}
