package libos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/launch"
	contract "github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/host/console"
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
	if err := makeBundle(bundle, l.spec); err != nil {
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
	linkNet, linkRuntime, err := socketPair("link")
	if err != nil {
		return fail(errors.Join(err, channelEnd.Close(), channelChild.Close(), hardwareEnd.Close(), hardwareChild.Close()))
	}
	l.sandbox.channelEnd = channelEnd
	for _, f := range []*os.File{channelChild, hardwareEnd, hardwareChild, linkNet, linkRuntime} {
		l.keep(f)
	}
	if err := unix.SetNonblock(int(linkNet.Fd()), false); err != nil {
		return fail(err)
	}
	var disk []byte
	if l.spec.Initdata != nil {
		if disk, err = vmm.InitdataDisk(l.spec.Initdata); err != nil {
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

	ready, err := l.startNetwork(linkNet, netUID)
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
		Args:       append([]string{contract.Start}, contract.RunArgs(l.command, l.path(stateDir, "state"), bundle, l.id)...),
		Files:      []*os.File{channelChild, hardwareChild, given, linkRuntime},
		Output:     w,
		Namespaces: unix.CLONE_NEWNET,
	})
	if err != nil {
		return fail(err)
	}
	if err := l.started("runtime", cmd, nil); err != nil {
		return fail(err)
	}
	return channelEnd, hardwareEnd, doc, ready()
}

// startNetwork starts what carries the sandbox's traffic. ready waits until it does.
func (l *launching) startNetwork(link *os.File, uid int) (ready func() error, err error) {
	args := []string{contract.Net}
	low := false
	for _, p := range l.spec.Publish {
		ip := p.HostIP
		if ip == "" {
			ip = "127.0.0.1"
		}
		low = low || p.HostPort < 1024
		args = append(args, fmt.Sprintf("tcp/%s/%d", net.JoinHostPort(ip, strconv.Itoa(p.HostPort)), p.GuestPort))
	}
	said, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the network: %w", err)
	}
	l.keep(said)
	out, ow, err := supervise.NewOutput()
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	cmd, err := supervise.Start(&supervise.Command{
		Path: l.spec.Kernel.Path, Args: args, Files: []*os.File{link}, UID: uid, BindLowPorts: low, Output: ow, Stdout: w,
	})
	_, _ = w.Close(), ow.Close()
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("starting the network: %w", err)
	}
	if err := l.started("network", cmd, out); err != nil {
		return nil, err
	}
	return func() error {
		_ = said.SetReadDeadline(time.Now().Add(startTimeout))
		line, err := bufio.NewReaderSize(said, 64).ReadString('\n')
		if err != nil || line != "ready\n" {
			return fmt.Errorf("starting the network: %s %s", console.Printable(out.Text()), l.sandbox.tail())
		}
		return nil
	}, nil
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
		l.sandbox.book(name, pid)
		if l.watcher == nil {
			continue
		}
		if err := l.watcher.Add(name, pid); err != nil {
			return err
		}
	}
	return nil
}

// undo ends and removes whatever a failed launch has made.
func (l *launching) undo() error {
	l.sandbox.kill()
	return l.sandbox.cleanUp()
}
