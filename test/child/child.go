// Package child starts the processes that are to end with a test's own.
//
// Trust zone: none (tests).
package child

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// starts begins with the first use: a test's program may also be the guest's.
var starts = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
})

// Start starts cmd so that it gets sig when this process dies, however that ends. The
// signal comes when the thread that forked ends (PR_SET_PDEATHSIG, prctl(2)), and a test
// that enters a namespace ends its thread: all are forked by one that never does.
func Start(cmd *exec.Cmd, sig syscall.Signal) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = sig
	errc := make(chan error, 1)
	starts() <- func() { errc <- cmd.Start() }
	return <-errc
}
