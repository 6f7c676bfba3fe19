// Package caps sets the capabilities of the calling thread, for processes that
// give up privileges before they execute something else.
//
// Invariant: an unknown name is an error, never ignored.
//
// Trust zone: guest.
package caps

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Set is a set of capabilities, bit n for capability n.
type Set uint64

var names = map[string]uint{
	"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_DAC_READ_SEARCH": 2, "CAP_FOWNER": 3, "CAP_FSETID": 4,
	"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SETPCAP": 8, "CAP_LINUX_IMMUTABLE": 9,
	"CAP_NET_BIND_SERVICE": 10, "CAP_NET_BROADCAST": 11, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13,
	"CAP_IPC_LOCK": 14, "CAP_IPC_OWNER": 15, "CAP_SYS_MODULE": 16, "CAP_SYS_RAWIO": 17, "CAP_SYS_CHROOT": 18,
	"CAP_SYS_PTRACE": 19, "CAP_SYS_PACCT": 20, "CAP_SYS_ADMIN": 21, "CAP_SYS_BOOT": 22, "CAP_SYS_NICE": 23,
	"CAP_SYS_RESOURCE": 24, "CAP_SYS_TIME": 25, "CAP_SYS_TTY_CONFIG": 26, "CAP_MKNOD": 27, "CAP_LEASE": 28,
	"CAP_AUDIT_WRITE": 29, "CAP_AUDIT_CONTROL": 30, "CAP_SETFCAP": 31, "CAP_MAC_OVERRIDE": 32, "CAP_MAC_ADMIN": 33,
	"CAP_SYSLOG": 34, "CAP_WAKE_ALARM": 35, "CAP_BLOCK_SUSPEND": 36, "CAP_AUDIT_READ": 37, "CAP_PERFMON": 38,
	"CAP_BPF": 39, "CAP_CHECKPOINT_RESTORE": 40,
}

// Parse gives the set of the named capabilities ("CAP_CHOWN", ...).
func Parse(list []string) (Set, error) {
	var s Set
	for _, n := range list {
		bit, ok := names[n]
		if !ok {
			return 0, fmt.Errorf("unknown capability %q", n)
		}
		s |= 1 << bit
	}
	return s, nil
}

// Bits lists the capability numbers of s.
func (s Set) Bits() []uintptr {
	var out []uintptr
	for n := range uint(64) {
		if s&(1<<n) != 0 {
			out = append(out, uintptr(n))
		}
	}
	return out
}

// alwaysThere is the highest capability that each kernel since Linux 3.16 has.
const alwaysThere = 37

// DropBounding removes every capability that is not in keep from the calling thread's
// bounding set. It asks the kernel and no file: in a container, files may be anybody's.
func DropBounding(keep Set) error {
	for n := range uint(64) {
		if keep&(1<<n) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0)
		if err == nil || errors.Is(err, unix.EINVAL) && n > alwaysThere {
			continue
		}
		// Who may drop none may still have none of it.
		has, rerr := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
		if rerr == nil && has == 0 || errors.Is(rerr, unix.EINVAL) && n > alwaysThere {
			continue
		}
		return fmt.Errorf("dropping capability %d from the bounding set: %w", n, err)
	}
	return nil
}

// Apply sets the calling thread's permitted and effective sets to s and its
// inheritable set to inheritable; a subset of the present permitted set only.
func Apply(s, inheritable Set) error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	d := [2]unix.CapUserData{
		{Effective: uint32(s), Permitted: uint32(s), Inheritable: uint32(inheritable)},
		{Effective: uint32(s >> 32), Permitted: uint32(s >> 32), Inheritable: uint32(inheritable >> 32)},
	}
	if err := unix.Capset(&h, &d[0]); err != nil {
		return fmt.Errorf("setting capabilities: %w", err)
	}
	return nil
}

// Permitted gives the calling thread's permitted set.
func Permitted() (Set, error) {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		return 0, fmt.Errorf("reading capabilities: %w", err)
	}
	return Set(d[0].Permitted) | Set(d[1].Permitted)<<32, nil
}
