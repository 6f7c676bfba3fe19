// Package libos is the driver of process TEEs: a pod in a library OS, without a
// virtual machine. In simulation the library OS is gVisor's Sentry, started as
// coffer-runsc (host/libos/runsc), and coffer-simhw plays the SGX hardware.
//
// It stands behind host/sandbox.Driver as host/vmm does. What is started is
// api/libos's to say; this package makes the bundle, starts the three processes
// (runtime, network, hardware), and ends them together.
//
// Invariants: the pod's files are in the Sentry's memory alone, none of them in a
// file of this machine; the run directory holds the agent's program, its
// configuration and the runtime's own state, which is no secret; a process that is
// left alone takes the others along.
//
// Trust zone: host. Never trusted with a secret.
package libos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	contract "github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/host/sandbox"
)

// Options say how a Driver works.
type Options struct {
	// CacheDir keeps the keys of simulated vendors.
	CacheDir string
	// SimHW is the program coffer-simhw.
	SimHW string
	// Supervisor is the command line of a program that calls supervise.Main.
	Supervisor []string
	// Parent is the process that asked for the sandbox and made its directory.
	Parent int
	// Network is the network namespace that the pod has already; "": one is made, of
	// which all traffic goes through this machine's sockets.
	Network string
	// BootTimeout is how long the agent may take to answer on the channel; 0:
	// DefaultBootTimeout.
	BootTimeout time.Duration
}

// DefaultBootTimeout is far more than a start takes, on a busy machine too.
const DefaultBootTimeout = 60 * time.Second

// startTimeout bounds the start of the network and the measuring, each.
const startTimeout = 30 * time.Second

// Driver launches process TEEs. It implements sandbox.Driver.
type Driver struct{ opt Options }

var _ sandbox.Driver = (*Driver)(nil)

// New makes a Driver.
func New(opt Options) (*Driver, error) {
	if opt.CacheDir == "" || opt.SimHW == "" {
		return nil, errors.New("library OS: no cache directory or no coffer-simhw")
	}
	if opt.BootTimeout == 0 {
		opt.BootTimeout = DefaultBootTimeout
	}
	return &Driver{opt}, nil
}

// Launch implements sandbox.Driver.
func (d *Driver) Launch(ctx context.Context, id, dir string, spec *launch.Spec, progress func(string)) (sandbox.Sandbox, error) {
	command, err := d.check(spec)
	if err != nil {
		return nil, err
	}
	l := &launching{driver: d, spec: spec, command: command, id: id, dir: dir, progress: progress, sandbox: newSandbox(dir)}
	if err := l.run(ctx); err != nil {
		return nil, &LaunchError{ID: id, Err: errors.Join(err, l.undo()), console: l.sandbox.tail()}
	}
	return l.sandbox, nil
}

// LaunchError is why a process TEE could not be launched.
type LaunchError struct {
	ID      string
	Err     error
	console string
}

func (e *LaunchError) Error() string { return fmt.Sprintf("launching %s: %v", e.ID, e.Err) }

// Unwrap gives Err.
func (e *LaunchError) Unwrap() error { return e.Err }

// ConsoleTail gives what the guest had printed, if it came that far.
func (e *LaunchError) ConsoleTail() string { return e.console }

// check refuses what could be refused before anything is made.
func (d *Driver) check(spec *launch.Spec) (*contract.Command, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if !spec.TEE.Process() {
		return nil, fmt.Errorf("launch spec: tee: %s is not a process TEE", spec.TEE)
	}
	if os.Geteuid() != 0 {
		// A user namespace of one's own would do, but Debian's AppArmor and many
		// clusters forbid it; docs/known-gaps.md.
		return nil, errors.New("a process TEE is started by root: it takes a network namespace and an interface in it")
	}
	if len(spec.SimDevices) > 0 {
		return nil, errors.New("launch spec: sim_devices: a process TEE has none")
	}
	command, err := contract.ParseCommand(spec.Cmdline)
	if err != nil {
		return nil, fmt.Errorf("launch spec: %w", err)
	}
	for _, f := range []struct {
		what string
		path string
	}{{"the library OS", spec.Kernel.Path}, {"the agent", spec.Initrd.Path}, {"coffer-simhw", d.opt.SimHW}} {
		fi, err := os.Stat(f.path)
		if err != nil {
			return nil, fmt.Errorf("%s is missing (%w): it lies beside coffer-node (make build runsc)", f.what, err)
		}
		if !fi.Mode().IsRegular() {
			return nil, fmt.Errorf("%s: %s is not a regular file", f.what, f.path)
		}
	}
	if d.opt.Network != "" && len(spec.Publish) > 0 {
		return nil, errors.New("launch spec: publish: the pod's own network leads to its ports")
	}
	for i, p := range spec.Publish {
		if p.Protocol != "tcp" {
			return nil, fmt.Errorf("publish[%d]: a process TEE publishes tcp ports, not %s", i, p.Protocol)
		}
	}
	return command, nil
}

// Names that a launch makes in a run directory.
const (
	stateDir  = "libos"
	bundleDir = "bundle"
)

func (l *launching) path(elem ...string) string {
	return filepath.Join(append([]string{l.dir}, elem...)...)
}
