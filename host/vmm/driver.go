package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/host/filedigest"
	"github.com/cofferproject/coffer/host/sandbox"
	"github.com/cofferproject/coffer/host/supervise"
	"github.com/cofferproject/coffer/host/swtpm"
)

// Options say how a Driver works. The zero value of each field but CacheDir is
// usable.
type Options struct {
	// CacheDir keeps the probe's answer and the simulated TPM manufacturer.
	CacheDir string
	// Supervisor is the command line of a program that calls supervise.Main.
	// Without one a kill -9 of this process leaves the run directory to Sweep.
	Supervisor []string
	// SimHW is the program coffer-simhw; needed for the TEEs that it plays.
	SimHW string
	// Parent is the process that asked for the sandbox and made its directory.
	Parent int
	// BootTimeout is how long a guest may take to answer on the channel.
	BootTimeout time.Duration
	// StartTimeout is how long QEMU may take to answer.
	StartTimeout time.Duration
	// Network is the guest's network; nil: user-mode networking.
	Network *Network
	// Machine overrides what Detect finds out; for benchmarks and tests.
	Machine *Machine
	// QuoteSocket is where the host's quote generation service listens (TDX); "":
	// DefaultQuoteSocket.
	QuoteSocket string
	// AskOwner gets launch secrets (SEV, SEV-ES); nil: launches with one are refused.
	AskOwner AskOwner
}

// Network is a guest's network made of tap interfaces, for one launch: the driver
// closes the taps.
type Network struct{ Taps []Tap }

// Tap is one interface: what is written to it the guest receives on a card with
// the address MAC.
type Tap struct {
	File *os.File // opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR
	MAC  string
}

// DefaultBootTimeout allows for a slow and busy machine: under TCG a guest with
// firmware answers after 8 s when two cores have nothing else to do.
const (
	DefaultBootTimeout  = 120 * time.Second
	defaultStartTimeout = 30 * time.Second
)

// tpmDir is the TPM's state in a run directory.
const tpmDir = "tpm"

// Driver launches VMs of one platform. It implements sandbox.Driver.
type Driver struct {
	platform *platform.Platform
	opt      Options
}

var _ sandbox.Driver = (*Driver)(nil)

// New makes a Driver.
func New(p *platform.Platform, opt Options) (*Driver, error) {
	if opt.CacheDir == "" {
		return nil, errors.New("vmm: no cache directory")
	}
	if opt.BootTimeout == 0 {
		opt.BootTimeout = DefaultBootTimeout
	}
	if opt.StartTimeout == 0 {
		opt.StartTimeout = defaultStartTimeout
	}
	if opt.QuoteSocket == "" {
		opt.QuoteSocket = DefaultQuoteSocket
	}
	return &Driver{p, opt}, nil
}

// CacheDir is where Coffer keeps what it can make again: $COFFER_CACHE, else
// ~/.cache/coffer.
func CacheDir() (string, error) {
	if d := os.Getenv("COFFER_CACHE"); d != "" {
		return d, nil
	}
	h, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("no cache directory: set COFFER_CACHE or HOME")
	}
	return filepath.Join(h, ".cache", "coffer"), nil
}

// Launch implements sandbox.Driver. The Sandbox is a *VM.
func (d *Driver) Launch(ctx context.Context, id, dir string, spec *launch.Spec, progress func(string)) (sandbox.Sandbox, error) {
	l := &launching{driver: d, spec: spec, dir: dir, progress: progress}
	if err := d.check(spec); err != nil {
		l.closeTaps()
		return nil, err
	}
	vm, err := l.run(ctx)
	if err != nil {
		uerr := l.undo()
		if uerr != nil {
			err = errors.Join(err, uerr)
		}
		return nil, &LaunchError{ID: id, Err: err, console: l.tail()}
	}
	return vm, nil
}

// LaunchError is why a VM could not be launched.
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
func (d *Driver) check(spec *launch.Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	for _, s := range []string{spec.CPUModel} {
		for _, c := range s {
			if c <= ' ' || c > '~' {
				return fmt.Errorf("launch spec: cpu_model: unusable character %q", c)
			}
		}
	}
	switch spec.TEE {
	case launch.None:
		if spec.Firmware.Path != "" {
			return errors.New("launch spec: firmware: TEE none boots without")
		}
	case launch.TPMSim:
		if spec.Firmware.Path == "" || spec.VarsFile.Path == "" {
			return errors.New("launch spec: firmware: tpm-sim measures its boot with firmware; code and variable store must be given")
		}
	default:
		if spec.TEE.Hardware() {
			if err := checkHardware(spec); err != nil {
				return err
			}
			if spec.SNP != nil && spec.SNP.SecretService != "" && d.opt.AskOwner == nil {
				return errors.New("launch spec: snp: secret_service: this launcher asks no owner for secrets; coffer-node sandbox does")
			}
			break
		}
		if !spec.TEE.Played() {
			return fmt.Errorf("launch spec: tee: %q is not one this driver launches (%s, %s, none)", spec.TEE, launch.HardwareTEEs, launch.SimulatedTEEs)
		}
		if spec.Firmware.Path != "" {
			return fmt.Errorf("launch spec: firmware: %s boots its kernel directly; what its hardware would measure is tee_firmware", spec.TEE)
		}
		if _, err := os.Stat(d.opt.SimHW); err != nil {
			return fmt.Errorf("coffer-simhw is missing (%w): it lies beside coffer-node", err)
		}
	}
	if _, err := os.Stat(d.platform.QEMU.Path); err != nil {
		return fmt.Errorf("QEMU is missing (%w): coffer guest build gets it", err)
	}
	if spec.TEE == launch.TPMSim {
		if _, err := os.Stat(d.platform.SWTPM); err != nil {
			return fmt.Errorf("swtpm is missing (%w): coffer guest build says which package has it", err)
		}
	}
	if n := d.opt.Network; n != nil {
		if len(n.Taps) > MaxNICs {
			return fmt.Errorf("%d network interfaces, at most %d", len(n.Taps), MaxNICs)
		}
		if len(spec.Publish) > 0 {
			return errors.New("launch spec: publish: ports are published by user-mode networking alone")
		}
	}
	return checkPorts(spec.Publish)
}

// madeFiles are the names that a launch makes in a run directory.
var madeFiles = []string{nodeapi.ConsoleLog, nodeapi.AgentSocket, tpmDir}

// prepared is what can be made before QEMU starts, side by side.
type prepared struct {
	in      *inputs
	machine Machine
	ca      *swtpm.CA
	tpm     *swtpm.TPM
	// teeFirmware is for coffer-simhw; nil: it plays no part.
	teeFirmware *os.File
}

func (p *prepared) close() {
	if p.in != nil {
		p.in.close()
	}
	if p.teeFirmware != nil {
		_ = p.teeFirmware.Close()
	}
}

// prepare opens and checks the inputs, asks for the machine's abilities and
// manufactures the TPM, all at once.
func (l *launching) prepare(ctx context.Context, tpmUID int) (*prepared, error) {
	var (
		p    prepared
		d    = l.driver
		errc = make(chan error, 3)
		n    = 2
	)
	go func() {
		var err error
		p.in, err = openInputs(d.platform, l.spec, filedigest.In(d.opt.CacheDir))
		if err == nil && l.spec.TEE.Played() {
			p.teeFirmware, err = teeFirmware(l.spec, filedigest.In(d.opt.CacheDir))
		}
		errc <- err
	}()
	go func() {
		var err error
		if l.spec.TEE.Hardware() { // checked, not probed: there is nothing to fall back to
			p.machine, err = d.hardwareMachine(ctx, l.spec)
			errc <- err
			return
		}
		if d.opt.Machine != nil {
			p.machine = *d.opt.Machine
			errc <- nil
			return
		}
		p.machine, err = Detect(ctx, d.platform, d.opt.CacheDir, l.progress)
		errc <- err
	}()
	if l.spec.TEE == launch.TPMSim {
		n++
		l.progress("manufacturing a software TPM (simulated: it protects nothing)")
		go func() { errc <- l.makeTPM(ctx, &p, tpmUID) }()
	}
	var errs []error
	for range n {
		errs = append(errs, <-errc)
	}
	if err := errors.Join(errs...); err != nil {
		p.close()
		if p.tpm != nil {
			_ = p.tpm.Close()
		}
		return nil, err
	}
	return &p, nil
}

func (l *launching) makeTPM(ctx context.Context, p *prepared, uid int) error {
	var err error
	if p.ca, err = swtpm.OpenCA(filepath.Join(l.driver.opt.CacheDir, "tpm-sim-ca")); err != nil {
		return err
	}
	state := filepath.Join(l.dir, tpmDir)
	if err := os.Mkdir(state, 0o700); err != nil {
		return fmt.Errorf("making a TPM: %w", err)
	}
	p.tpm, err = swtpm.New(ctx, l.driver.platform.SWTPM, state, uid, p.ca)
	return err
}

// watch starts the supervisor, if there is to be one.
func (l *launching) watch() (err error) {
	if len(l.driver.opt.Supervisor) == 0 {
		return nil
	}
	l.watcher, err = supervise.Watch(l.dir, l.driver.opt.Parent, madeFiles, l.driver.opt.Supervisor...)
	return err
}
