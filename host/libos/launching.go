package libos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	contract "github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/host/console"
	"github.com/cofferproject/coffer/host/filedigest"
	"github.com/cofferproject/coffer/host/simhw"
	"github.com/cofferproject/coffer/host/supervise"
	"github.com/cofferproject/coffer/host/vmm"
)

// caDir is the folder in the cache with the roots of simulated hardware; host/vmm's,
// since a machine has one of each vendor.
const caDir = "simhw-ca"

// launching is one launch under way.
type launching struct {
	driver   *Driver
	spec     *launch.Spec
	command  *contract.Command
	id, dir  string
	progress func(string)
	sandbox  *Sandbox

	watcher *supervise.Watcher
	files   []*os.File // closed when the launch has ended, either way
}

// keep closes f at the end of the launch.
func (l *launching) keep(f *os.File) *os.File {
	l.files = append(l.files, f)
	return f
}

func (l *launching) run(ctx context.Context) (err error) {
	defer func() {
		for _, f := range l.files {
			_ = f.Close()
		}
	}()
	netUID, hwUID, err := supervise.PrivateUIDs()
	if err != nil {
		return err
	}
	// First of all, so that a death during what follows leaves nothing.
	if len(l.driver.opt.Supervisor) > 0 {
		if l.watcher, err = supervise.Watch(l.dir, l.driver.opt.Parent, madeFiles, l.driver.opt.Supervisor...); err != nil {
			return err
		}
		l.sandbox.watcher = l.watcher
	}
	bundle := l.path(stateDir, bundleDir)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return fmt.Errorf("making the bundle: %w", err)
	}
	if err := makeBundle(bundle, l.spec, filedigest.In(l.driver.opt.CacheDir)); err != nil {
		return err
	}
	l.progress(fmt.Sprintf("starting a library OS: gVisor, %d MiB, %d CPUs", l.spec.MemoryMiB, l.spec.VCPUs))
	channelEnd, hardwareEnd, doc, err := l.startRuntime(bundle, netUID)
	if err != nil {
		return err
	}
	l.sandbox.answer(channelEnd, l.driver.opt.BootTimeout)
	l.progress("measuring the running process as sgx hardware would (simulated: it protects nothing)")
	if err := l.startHardware(ctx, hardwareEnd, doc, hwUID); err != nil {
		return err
	}
	if err := l.bookChildren(); err != nil {
		return err
	}
	l.sandbox.watch()
	return nil
}

// madeFiles are the names that a launch makes in a run directory.
var madeFiles = []string{nodeapi.ConsoleLog, nodeapi.AgentSocket, stateDir}

// started books a process with everybody who may have to end it.
func (l *launching) started(name string, cmd *exec.Cmd, out *supervise.Output) error {
	l.sandbox.add(name, cmd, out)
	if l.watcher == nil {
		return nil
	}
	return l.watcher.Add(name, cmd.Process.Pid)
}

// startRuntime starts the network and the runtime, and gives our end of the guest's
// channel, coffer-simhw's of its port, and the initdata.
func (l *launching) startRuntime(bundle string, netUID int) (channelEnd, hardwareEnd, doc *os.File, err error) {
	fail := func(err error) (*os.File, *os.File, *os.File, error) { return nil, nil, nil, err }
	channelEnd, channelChild, err := socketPair("agent")
	if err != nil {
		return fail(err)
	}
	hardwareEnd, hardwareChild, err := socketPair("simhw")
	if err != nil {
		return fail(errors.Join(err, channelEnd.Close(), channelChild.Close()))
	}
	l.sandbox.channelEnd = channelEnd
	for _, f := range []*os.File{channelChild, hardwareEnd, hardwareChild} {
		l.keep(f)
	}
	var disk []byte
	if l.spec.Initdata != nil {
		if disk, err = initdata.EncodeDevice(l.spec.Initdata); err != nil {
			return fail(err)
		}
	}
	doc, err = memoryFile("initdata", disk)
	if err != nil {
		return fail(err)
	}
	l.keep(doc)
	given, err := reader(doc)
	if err != nil {
		return fail(err)
	}
	l.keep(given)

	stores, err := l.stores()
	if err != nil {
		return fail(err)
	}
	network, err := l.network(netUID)
	if err != nil {
		return fail(err)
	}
	log, err := os.OpenFile(l.path(nodeapi.ConsoleLog), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fail(fmt.Errorf("capturing the console: %w", err))
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail(errors.Join(err, log.Close()))
	}
	l.keep(w)
	l.sandbox.console = console.Capture(r, log)
	cmd, err := supervise.Start(&supervise.Command{
		Path:       l.spec.Kernel.Path,
		Args:       append([]string{network.entry}, contract.RunArgs(l.command, l.path(stateDir, "state"), bundle, l.id)...),
		Files:      append([]*os.File{channelChild, hardwareChild, given, network.file}, stores...),
		Output:     w,
		Namespaces: network.namespaces,
	})
	if err != nil {
		return fail(err)
	}
	if err := l.started("runtime", cmd, nil); err != nil {
		return fail(err)
	}
	return channelEnd, hardwareEnd, doc, network.ready()
}

// stores opens the files that keep volumes; in the places of those that are not there
// are empty ones.
func (l *launching) stores() ([]*os.File, error) {
	out := make([]*os.File, contract.MaxStores)
	for i := range out {
		var f *os.File
		var err error
		if i < len(l.spec.Disks) {
			d := &l.spec.Disks[i]
			var block bool
			if f, block, err = vmm.OpenDisk(d); err == nil && block {
				err = errors.Join(errors.New("a block device, and a process keeps a volume in a file"), f.Close())
			}
			if err != nil {
				return nil, fmt.Errorf("opening disk %s: %w", d.Serial, err)
			}
		} else if f, err = memoryFile("none", nil); err != nil {
			return nil, err
		}
		out[i] = l.keep(f)
	}
	return out, nil
}

// startHardware starts coffer-simhw and waits until it has measured.
func (l *launching) startHardware(ctx context.Context, guest, doc *os.File, uid int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("it did not measure in time"))
	defer cancel()
	spec := *l.spec
	spec.Initdata = nil // it is read from what the runtime was given
	b, err := json.Marshal(simhw.Config{PID: l.sandbox.pid("runtime"), UID: uid, CADir: filepath.Join(l.driver.opt.CacheDir, caDir), Launch: spec})
	if err != nil {
		return fmt.Errorf("starting coffer-simhw: %w", err)
	}
	config, err := memoryFile("config", b)
	if err != nil {
		return err
	}
	defer config.Close()
	in, err := reader(config)
	if err != nil {
		return err
	}
	defer in.Close()
	input, err := reader(doc)
	if err != nil {
		return err
	}
	defer input.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	l.sandbox.simulation, err = (&simhw.Start{
		Program: l.driver.opt.SimHW, Config: in, Guest: guest, Monitor: null, Input: input,
		Started: func(cmd *exec.Cmd, out *supervise.Output) error { return l.started("simhw", cmd, out) },
	}).Run(ctx)
	if err != nil {
		return fmt.Errorf("simulating %s: %w", l.spec.TEE, err)
	}
	return nil
}

// bookChildren books the Sentry and the gofer: they end with the runtime, which
// watches over them, and if it cannot any more the supervisor does.
func (l *launching) bookChildren() error {
	for name, pid := range children(l.sandbox.pid("runtime")) {
		if l.watcher != nil {
			err := l.watcher.Add(name, pid)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // one of the runtime's short-lived helpers
			}
			if err != nil {
				return err
			}
		}
		l.sandbox.book(name, pid)
	}
	return nil
}

// undo ends and removes whatever a failed launch has made.
func (l *launching) undo() error {
	l.sandbox.kill()
	return l.sandbox.cleanUp()
}
