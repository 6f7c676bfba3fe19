package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/host/console"
	"github.com/cofferproject/coffer/host/supervise"
	"github.com/cofferproject/coffer/host/swtpm"
	"github.com/cofferproject/coffer/host/vmm/qmp"
)

// launching is one launch under way; what it has made so far, undo removes.
type launching struct {
	driver   *Driver
	spec     *launch.Spec
	dir      string
	progress func(string)

	watcher *supervise.Watcher
	procs   []*exec.Cmd // started, not yet given to a VM
	closers []*os.File  // our ends of QEMU's sockets
	console *console.Console
}

func (l *launching) run(ctx context.Context) (*VM, error) {
	qemuUID, deviceUID, err := supervise.PrivateUIDs()
	if err != nil {
		return nil, err
	}
	// First of all, so that a death during what follows leaves nothing.
	if err := l.watch(); err != nil {
		return nil, err
	}
	pre, err := l.prepare(ctx, deviceUID)
	if err != nil {
		return nil, err
	}
	defer pre.close()
	vm := &VM{dir: l.dir, done: make(chan struct{}), connected: make(chan struct{}), pids: map[string]int{}}

	if pre.tpm != nil {
		cmd, control, out, err := pre.tpm.Start()
		if err != nil {
			return nil, err
		}
		pre.in.paths.TPM = pre.in.add(control)
		if err := l.started(vm, "swtpm", cmd); err != nil {
			return nil, err
		}
		vm.swtpm, vm.swtpmOut = cmd, out
		vm.ekRoot, vm.ekRootSPKI = pre.ca.RootDER(), pre.ca.RootSPKI()
	}
	l.progress(fmt.Sprintf("starting QEMU: %d MiB, %d vCPU, %s", l.spec.MemoryMiB, l.spec.VCPUs, pre.machine))
	played := l.spec.TEE.Played()
	var port, monitor *os.File // coffer-simhw's ends
	if played {
		for _, s := range []struct {
			ours **os.File
			fd   *int
		}{{&port, &pre.in.paths.SimHW}, {&monitor, &pre.in.paths.SimQMP}} {
			var child *os.File
			if *s.ours, child, err = socketPair("simhw"); err != nil {
				return nil, err
			}
			defer (*s.ours).Close()
			*s.fd = pre.in.add(child)
		}
	}
	qmpConn, channelConn, err := l.startQEMU(vm, pre, qemuUID)
	if err != nil {
		return nil, err
	}
	if err := l.greet(ctx, vm, qmpConn); err != nil {
		return nil, err
	}
	if p := l.spec.SNP; p != nil && p.SecretService != "" {
		l.progress("asking the owner for the launch secret: " + hostOf(p.SecretService))
		if err := handSecret(ctx, vm.qmp, p, l.driver.opt.AskOwner); err != nil {
			return nil, err
		}
	}
	if played {
		l.progress(fmt.Sprintf("measuring the running machine as %s hardware would (simulated: it protects nothing)", l.spec.TEE.Wire()))
		if err := l.startSimHW(ctx, vm, deviceUID, port, monitor, pre.teeFirmware); err != nil {
			return nil, err
		}
	}
	vm.console, vm.watcher = l.console, l.watcher
	vm.run(channelConn, l.driver.opt.BootTimeout)
	return vm, nil
}

// startQEMU gives our ends of its QMP and channel sockets.
func (l *launching) startQEMU(vm *VM, pre *prepared, uid int) (qmpConn, channelConn *os.File, err error) {
	in := pre.in
	socket := func(name string) (*os.File, int, error) {
		ours, child, err := socketPair(name)
		if err != nil {
			return nil, 0, err
		}
		l.closers = append(l.closers, ours)
		return ours, in.add(child), nil
	}
	var con *os.File
	if qmpConn, in.paths.QMP, err = socket("qmp"); err != nil {
		return nil, nil, err
	}
	if con, in.paths.Console, err = socket("console"); err != nil {
		return nil, nil, err
	}
	if err := roomForBytes(in.files[len(in.files)-1]); err != nil {
		return nil, nil, err
	}
	if channelConn, in.paths.Channel, err = socket("agent"); err != nil {
		return nil, nil, err
	}
	if pre.machine.KVM {
		kvm, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
		if err != nil {
			return nil, nil, fmt.Errorf("opening KVM: %w", err)
		}
		in.paths.KVM = in.add(kvm)
	}
	if l.spec.TEE.Hardware() {
		if err := in.hardwareDevices(l.spec, l.driver.opt.QuoteSocket, uid); err != nil {
			return nil, nil, err
		}
	}
	if n := l.driver.opt.Network; n != nil {
		in.paths.Taps = true
		for _, t := range n.Taps {
			in.paths.NICs = append(in.paths.NICs, NIC{FD: in.add(t.File), MAC: t.MAC})
		}
	}
	log, err := os.OpenFile(filepath.Join(l.dir, nodeapi.ConsoleLog), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("capturing the console: %w", err)
	}
	l.console = console.Capture(con, log)
	out, w, err := supervise.NewOutput()
	if err != nil {
		return nil, nil, err
	}
	cmd, err := supervise.Start(&supervise.Command{
		Path:         l.driver.platform.QEMU.Path,
		Args:         CommandLine(l.driver.platform, pre.machine, l.spec, in.paths),
		Files:        in.files,
		UID:          uid,
		BindLowPorts: lowPorts(l.spec.Publish),
		LockMiB:      lockedMiB(l.spec),
		Output:       w,
	})
	_ = w.Close()
	in.close() // the children have theirs
	if err != nil {
		out.Close()
		return nil, nil, err
	}
	vm.qemu, vm.qemuOut = cmd, out
	return qmpConn, channelConn, l.started(vm, "qemu", cmd)
}

// started books a process with everybody who may have to end it.
func (l *launching) started(vm *VM, name string, cmd *exec.Cmd) error {
	l.procs = append(l.procs, cmd)
	vm.pids[name] = cmd.Process.Pid
	if l.watcher == nil {
		return nil
	}
	return l.watcher.Add(name, cmd.Process.Pid)
}

// greet waits until QEMU has set the machine up and runs it.
func (l *launching) greet(ctx context.Context, vm *VM, conn *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.driver.opt.StartTimeout, errors.New("QEMU did not answer in time"))
	defer cancel()
	c, err := qmp.New(ctx, conn, vm.onEvent)
	if err == nil {
		_, err = c.Execute(ctx, "query-status", nil)
	}
	if err == nil {
		vm.qmp = c
		return nil
	}
	if errors.Is(err, qmp.ErrClosed) { // it has ended or is about to
		_ = vm.qemu.Process.Kill()
		_ = vm.qemu.Wait()
		l.procs = l.procs[:len(l.procs)-1]
		if said := vm.qemuOut.Text(); said != "" {
			return fmt.Errorf("QEMU refused: %s", console.Printable(said))
		}
	}
	return fmt.Errorf("starting QEMU: %w", err)
}

// undo ends and removes whatever a failed launch has made.
func (l *launching) undo() error {
	for _, c := range l.procs {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	for _, f := range l.closers {
		_ = f.Close()
	}
	l.closeTaps()
	if l.console != nil {
		waitFor(l.console.Done(), time.Second)
	}
	err := swtpm.Wipe(filepath.Join(l.dir, tpmDir))
	if l.watcher != nil {
		return errors.Join(err, l.watcher.Close())
	}
	return errors.Join(err, removeMade(l.dir))
}

// closeTaps lets go of taps that QEMU has not got; a second close does nothing.
func (l *launching) closeTaps() {
	if n := l.driver.opt.Network; n != nil {
		for _, t := range n.Taps {
			_ = t.File.Close()
		}
	}
}

func (l *launching) tail() string {
	if l.console == nil {
		return ""
	}
	return l.console.Tail()
}

func removeMade(dir string) error {
	var errs []error
	for _, n := range madeFiles {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, n)))
	}
	return errors.Join(errs...)
}

func waitFor(done <-chan struct{}, d time.Duration) {
	select {
	case <-done:
	case <-time.After(d):
	}
}
