package caps

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Nothing but what is kept is left in the bounding set, whatever /proc says.
func TestDropBounding(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	keep, err := Parse([]string{"CAP_KILL", "CAP_BPF"})
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		left Set
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		r := result{err: DropBounding(keep)}
		for n := range uint(64) {
			if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err == nil && has == 1 {
				r.left |= 1 << n
			}
		}
		if r.err == nil {
			r.err = DropBounding(keep) // again, as who has given up CAP_SETPCAP's use does
		}
		done <- r
	}()
	if r := <-done; r.err != nil || r.left != keep {
		t.Errorf("left %#x, %v; want %#x", r.left, r.err, keep)
	}
}
