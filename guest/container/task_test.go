package container

import (
	"syscall"
	"testing"
)

func TestHandled(t *testing.T) {
	const linux = "Name:\tsh\nSigPnd:\t0000000000000000\nSigBlk:\t0000000000010000\nSigIgn:\t0000000000000004\nSigCgt:\t0000000000004002\n"
	for _, c := range []struct {
		status string
		sig    syscall.Signal
		want   bool
	}{
		{linux, syscall.SIGTERM, true}, {linux, syscall.SIGINT, true}, {linux, syscall.SIGQUIT, true}, {linux, syscall.SIGHUP, false}, {linux, syscall.SIGUSR1, false},
		{"Name:\tsh\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\n", syscall.SIGTERM, false},
		{"Name:\tsh\nState:\tS (sleeping)\nSeccomp:\t2\n", syscall.SIGTERM, true}, // gVisor's has no masks
	} {
		if got := handled([]byte(c.status), c.sig); got != c.want {
			t.Errorf("%v in %q: %v", c.sig, c.status, got)
		}
	}
}
