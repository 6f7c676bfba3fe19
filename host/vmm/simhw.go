package vmm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/host/filedigest"
	"github.com/cofferproject/coffer/host/simhw"
	"github.com/cofferproject/coffer/host/supervise"
)

// caDir is the folder in the cache with the roots of simulated hardware other
// than TPMs.
const caDir = "simhw-ca"

// startSimHW starts coffer-simhw beside the running QEMU and waits until it has
// measured and runs under uid. guest and monitor are its ends of QEMU's sockets.
func (l *launching) startSimHW(ctx context.Context, vm *VM, uid int, guest, monitor, firmware *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.driver.opt.StartTimeout, errors.New("it did not measure in time"))
	defer cancel()
	config, err := l.simConfig(vm.qemu.Process.Pid, uid)
	if err != nil {
		return err
	}
	defer config.Close()
	vm.simulation, err = (&simhw.Start{
		Program: l.driver.opt.SimHW, Config: config, Guest: guest, Monitor: monitor, Input: firmware,
		Started: func(cmd *exec.Cmd, out *supervise.Output) error {
			vm.simhw, vm.simhwOut = cmd, out
			return l.started(vm, "simhw", cmd)
		},
	}).Run(ctx)
	if err != nil {
		return fmt.Errorf("simulating %s: %w", l.spec.TEE, err)
	}
	return nil
}

// simConfig gives the configuration as a file at its start.
func (l *launching) simConfig(qemu, uid int) (*os.File, error) {
	spec := *l.spec
	spec.Initdata = nil // it is read from the machine
	b, err := json.Marshal(simhw.Config{PID: qemu, UID: uid, CADir: filepath.Join(l.driver.opt.CacheDir, caDir), Launch: spec})
	if err != nil {
		return nil, fmt.Errorf("starting coffer-simhw: %w", err)
	}
	return memoryWith("config", b)
}

// teeFirmware opens the firmware that the simulated TEE measures; an empty file
// where the spec names none.
func teeFirmware(spec *launch.Spec, digests filedigest.Cache) (*os.File, error) {
	if spec.TEEFirmware.Path == "" {
		return memoryWith("no-firmware", nil)
	}
	return openLaunched(digests, "TEE's firmware", spec.TEEFirmware)
}

func memoryWith(name string, content []byte) (*os.File, error) {
	m, err := memory(name)
	if err != nil {
		return nil, err
	}
	if _, err = io.Copy(m, bytes.NewReader(content)); err == nil {
		_, err = m.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("writing a file in memory: %w", err)
	}
	return m, nil
}

// Simulation is what coffer-simhw says of the hardware that it plays; nil where
// it plays none.
func (v *VM) Simulation() *nodeapi.Simulation { return v.simulation }

// watchSimHW ends a guest whose hardware is gone, and hardware whose guest is.
func (v *VM) watchSimHW(qemuDone <-chan struct{}) <-chan struct{} {
	done := make(chan struct{})
	go func() { _ = v.simhw.Wait(); close(done) }()
	go func() {
		select {
		case <-done:
			select {
			case <-qemuDone:
			case <-time.After(time.Second):
				v.end(nodeapi.ReasonCrashed, ended("coffer-simhw", v.simhw, v.simhwOut))
			}
		case <-qemuDone: // it ends with the guest's port
			select {
			case <-done:
			case <-time.After(200 * time.Millisecond):
				_ = v.simhw.Process.Kill()
			}
		}
	}()
	return done
}
