package container

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// execve is a prepared execve(2): after the seccomp filter is in place nothing
// but the call itself may be needed.
type execve struct {
	path      *byte
	argv, env []*byte
}

func prepareExec(file string, argv, env []string) (*execve, error) {
	var x execve
	var err error
	if x.path, err = unix.BytePtrFromString(file); err != nil {
		return nil, err
	}
	if x.argv, err = pointers(argv); err != nil {
		return nil, err
	}
	if x.env, err = pointers(env); err != nil {
		return nil, err
	}
	return &x, nil
}

func pointers(list []string) ([]*byte, error) {
	out := make([]*byte, len(list)+1)
	for i, s := range list {
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			return nil, err
		}
		out[i] = p
	}
	return out, nil
}

func (x *execve) run() unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(x.path)),
		uintptr(unsafe.Pointer(&x.argv[0])), uintptr(unsafe.Pointer(&x.env[0])))
	runtime.KeepAlive(x)
	return errno
}

func setgroupsThread(groups []uint32) error {
	var p unsafe.Pointer
	if len(groups) > 0 {
		p = unsafe.Pointer(&groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(p), 0); errno != 0 {
		return errno
	}
	return nil
}
