package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/channel"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/host/console"
	"github.com/cofferproject/coffer/host/sandbox"
	"github.com/cofferproject/coffer/host/supervise"
	"github.com/cofferproject/coffer/host/swtpm"
	"github.com/cofferproject/coffer/host/vmm/qmp"
)

// lostGrace is how long a guest that has left the channel may take to power off.
const lostGrace = 5 * time.Second

// VM is a running virtual machine. It implements sandbox.Sandbox.
type VM struct {
	dir             string
	qemu, swtpm     *exec.Cmd
	simhw           *exec.Cmd // nil: no TEE that coffer-simhw plays
	simulation      *nodeapi.Simulation
	qemuOut         *supervise.Output
	swtpmOut        *supervise.Output
	simhwOut        *supervise.Output
	qmp             *qmp.Client
	console         *console.Console
	watcher         *supervise.Watcher
	pids            map[string]int
	ekRoot          []byte
	ekRootSPKI      string
	connected, done chan struct{} // closed: session is set or given up; VM is gone and cleaned up

	mu       sync.Mutex
	session  *channel.Session
	why      string // the first reason for its end that is known for sure
	detail   string // to why: see sandbox.Exit
	shutdown string // QEMU's own account of its end
	exit     sandbox.Exit
	cleanErr error
}

var _ sandbox.Sandbox = (*VM)(nil)

// EKRoot gives the root of the simulated TPM's certificate and the hex SHA-256
// of its SPKI; nothing without a TPM.
func (v *VM) EKRoot() (der []byte, spki string) { return v.ekRoot, v.ekRootSPKI }

// PIDs implements sandbox.Sandbox.
func (v *VM) PIDs() map[string]int { return maps.Clone(v.pids) }

// run watches over the VM from now on.
func (v *VM) run(conn *os.File, bootTimeout time.Duration) {
	go v.connect(conn, bootTimeout)
	qemuDone := make(chan struct{})
	go func() { _ = v.qemu.Wait(); close(qemuDone) }()
	swtpmDone := make(chan struct{})
	if v.swtpm != nil {
		go func() {
			_ = v.swtpm.Wait()
			close(swtpmDone)
			// It ends with QEMU. If it ended first, the guest's TPM is gone; QEMU
			// would keep a guest that waits for it for ever.
			select {
			case <-qemuDone:
			case <-time.After(time.Second):
				v.end(nodeapi.ReasonCrashed, ended("swtpm", v.swtpm, v.swtpmOut))
			}
		}()
	}
	var simDone <-chan struct{}
	if v.simhw != nil {
		simDone = v.watchSimHW(qemuDone)
	}
	go func() {
		<-qemuDone
		if simDone != nil {
			<-simDone
		}
		if v.swtpm != nil {
			select {
			case <-swtpmDone:
			case <-time.After(200 * time.Millisecond):
				_ = v.swtpm.Process.Kill()
				<-swtpmDone
			}
		}
		v.cleanUp()
	}()
}

// connect opens the channel session and ends a VM that has none or loses it.
func (v *VM) connect(conn *os.File, bootTimeout time.Duration) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout)
	defer cancel()
	go func() {
		select {
		case <-v.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	s, err := channel.Host(ctx, conn)
	if err != nil {
		close(v.connected)
		if errors.Is(err, context.DeadlineExceeded) {
			v.end(nodeapi.ReasonNoAnswer, "the guest did not answer on its channel in time")
			return
		}
		// The socket has ended: so has QEMU, or it will not be of use.
		select {
		case <-v.done:
		case <-time.After(lostGrace):
			v.end(nodeapi.ReasonCrashed, "the guest's channel: "+console.Printable(err.Error()))
		}
		return
	}
	v.mu.Lock()
	v.session = s
	v.mu.Unlock()
	close(v.connected)
	select {
	case <-v.done:
	case <-s.Done():
		select {
		case <-v.done:
		case <-time.After(lostGrace):
			v.end(nodeapi.ReasonCrashed, "the guest closed its channel and did not power off")
		}
	}
	_ = s.Close()
}

// Dial implements sandbox.Sandbox.
func (v *VM) Dial(ctx context.Context, kind byte) (net.Conn, error) {
	select {
	case <-v.connected:
	case <-v.done:
		return nil, fmt.Errorf("dialing the guest: it is gone: %w", net.ErrClosed)
	case <-ctx.Done():
		return nil, fmt.Errorf("dialing the guest: %w", context.Cause(ctx))
	}
	v.mu.Lock()
	s := v.session
	v.mu.Unlock()
	if s == nil {
		return nil, fmt.Errorf("dialing the guest: it has not answered: %w", net.ErrClosed)
	}
	return s.Open(ctx, channel.Kind(kind))
}

// Connected is closed when the guest has answered, or never will.
func (v *VM) Connected() <-chan struct{} { return v.connected }

// Wait implements sandbox.Sandbox.
func (v *VM) Wait() sandbox.Exit {
	<-v.done
	return v.exit
}

// Done is closed when the VM is gone.
func (v *VM) Done() <-chan struct{} { return v.done }

// Destroy implements sandbox.Sandbox.
func (v *VM) Destroy() error {
	v.end(nodeapi.ReasonDestroyed, "")
	<-v.done
	return v.cleanErr
}

// end kills the VM for the given reason, if nothing else has ended it before.
func (v *VM) end(why, detail string) {
	v.mu.Lock()
	if v.why == "" && v.shutdown == "" {
		v.why, v.detail = why, detail
	}
	v.mu.Unlock()
	_ = v.qemu.Process.Kill()
}

// onEvent hears QEMU out about why it ends.
func (v *VM) onEvent(e qmp.Event) {
	if e.Name != "SHUTDOWN" {
		return
	}
	var d struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(e.Data, &d) != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shutdown == "" {
		v.shutdown = d.Reason
	}
}

// reason tells how the VM ended, from what was seen.
func (v *VM) reason() (why, detail string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.why != "" {
		return v.why, v.detail
	}
	switch v.shutdown {
	case "guest-shutdown":
		return nodeapi.ReasonGuestShutdown, ""
	case "guest-reset", "guest-panic":
		// The guest never restarts itself; its kernel does after a panic.
		return nodeapi.ReasonGuestPanic, ""
	case "host-signal", "host-qmp-quit":
		return nodeapi.ReasonKilled, ""
	}
	if ws, ok := v.qemu.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
		return nodeapi.ReasonKilled, ""
	}
	return nodeapi.ReasonCrashed, ended("QEMU", v.qemu, v.qemuOut)
}

// ended tells how a process that has been waited for ended, and what it said.
func ended(name string, cmd *exec.Cmd, out *supervise.Output) string {
	s := fmt.Sprintf("%s ended: %s", name, cmd.ProcessState)
	if said := out.Text(); said != "" {
		s += ": " + console.Printable(said)
	}
	return s
}

// cleanUp runs once, when both processes are reaped.
func (v *VM) cleanUp() {
	waitFor(v.qmp.Done(), time.Second)
	_ = v.qmp.Close()
	waitFor(v.console.Done(), time.Second)
	v.exit.Reason, v.exit.Detail = v.reason()
	if v.exit.Reason != nodeapi.ReasonDestroyed {
		v.exit.Console = v.console.Tail()
	}
	err := swtpm.Wipe(filepath.Join(v.dir, tpmDir))
	if v.watcher != nil {
		err = errors.Join(err, v.watcher.Close())
	} else {
		err = errors.Join(err, removeMade(v.dir))
	}
	v.cleanErr = err
	close(v.done)
}
