package seccomp

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

type program struct {
	length uint16
	filter *Instruction
}

const (
	setModeFilter = 1 // SECCOMP_SET_MODE_FILTER
	flagTSync     = 1 // SECCOMP_FILTER_FLAG_TSYNC
)

// InstallThread puts the filter on the calling thread only, which must go on to
// execve.
func InstallThread(code []Instruction) error { return install(code, 0) }

// InstallProcess puts the filter on every thread of the process.
func InstallProcess(code []Instruction) error { return install(code, flagTSync) }

func install(code []Instruction, flags uintptr) error {
	if len(code) == 0 {
		return fmt.Errorf("installing seccomp filter: empty program")
	}
	p := program{length: uint16(len(code)), filter: &code[0]}
	r, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, flags, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(code)
	if errno != 0 {
		return fmt.Errorf("installing seccomp filter: %w", errno)
	}
	if r != 0 {
		return fmt.Errorf("installing seccomp filter: thread %d has another one", r)
	}
	return nil
}

// Supported reports whether the kernel has seccomp filters.
func Supported() bool {
	action := uint32(Allow)
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, 2 /* GET_ACTION_AVAIL */, 0, uintptr(unsafe.Pointer(&action)))
	return errno == 0
}
