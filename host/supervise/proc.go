package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Proc identifies one process of this boot: a pid alone may be recycled.
type Proc struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
}

// Identify gives the identity of a living process.
func Identify(pid int) (Proc, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Proc{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	// Field 22; the command in field 2 may hold spaces and parentheses.
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return Proc{}, fmt.Errorf("identifying process %d: malformed stat", pid)
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return Proc{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	return Proc{pid, start}, nil
}

// open gives a pidfd of p, or -1 if p is gone.
func (p Proc) open() (int, error) {
	if p.PID < 1 {
		return -1, nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("opening process %d: %w", p.PID, err)
	}
	// The pidfd was taken first: if the process that has the pid now is p, the
	// pidfd is p's.
	now, err := Identify(p.PID)
	if err != nil || now.Start != p.Start {
		_ = unix.Close(fd)
		return -1, nil
	}
	return fd, nil
}

// Alive reports whether p runs. A zombie does not.
func (p Proc) Alive() bool {
	fd, err := p.open()
	if err != nil {
		return true // not known to be dead
	}
	if fd < 0 {
		return false
	}
	defer unix.Close(fd)
	return !waitFD(fd, 0)
}

// WaitGone waits at most d for p to end and reports whether it has.
func (p Proc) WaitGone(d time.Duration) bool {
	fd, err := p.open()
	if err != nil {
		return false
	}
	if fd < 0 {
		return true
	}
	defer unix.Close(fd)
	return waitFD(fd, d)
}

// Kill ends p at once and waits at most d for it to be gone.
func (p Proc) Kill(d time.Duration) error {
	if p.PID <= 1 || p.PID == os.Getpid() { // no record of ours names these
		return nil
	}
	fd, err := p.open()
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing process %d: %w", p.PID, err)
	}
	if !waitFD(fd, d) {
		return fmt.Errorf("killing process %d: still there after %s", p.PID, d)
	}
	return nil
}

// waitFD waits until a pidfd says that its process has ended.
func waitFD(fd int, d time.Duration) bool {
	end := time.Now().Add(d)
	for {
		left := max(0, time.Until(end))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if n > 0 {
			return true
		}
		if !errors.Is(err, unix.EINTR) || left == 0 {
			return false
		}
	}
}

// bootID tells one boot's pids and start times from another's.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
