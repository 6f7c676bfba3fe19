// Package pid1 is the life of the guest's first process: boot, helpers, agent,
// power-off. It is the wiring that coffer-guest and coffer-guest-sim share.
//
// Trust zone: guest.
package pid1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/cofferproject/coffer/api/channel"
	"github.com/cofferproject/coffer/api/channel/virtioport"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/agent"
	"github.com/cofferproject/coffer/guest/agent/rtnetlink"
	"github.com/cofferproject/coffer/guest/boot"
	"github.com/cofferproject/coffer/guest/container"
	"github.com/cofferproject/coffer/guest/keyholder"
	"github.com/cofferproject/coffer/guest/proc"
)

// exe is this binary's path in the guest image.
const exe = "/init"

// debugMarker is in debug images alone.
const debugMarker = "/etc/coffer/debug"

// portWait bounds how long the guest channel's device may take to appear.
const portWait = 30 * time.Second

// Options are what differs between the guests and what other packages add.
type Options struct {
	// Variant names the guest on the console: "release", "sim".
	Variant string
	// Simulated guests say so, loudly: they protect nothing.
	Simulated bool
	// OpenAttester opens the TEE's device in the key holder.
	OpenAttester func(log *slog.Logger) (keyholder.Attester, error)
	// OpenDevices opens the devices beside the CPU, by their TEEs' wire names, after
	// OpenAttester and in the same process.
	OpenDevices map[string]func() (keyholder.Attester, error)
	// Register opens what initdata is bound to; a nil Register: this machine has no
	// TEE. What can be closed is closed when initdata is bound. A nil function: the
	// TPM, if there is one.
	Register func(log *slog.Logger) (boot.Register, error)
	// Devices names devices that the key holder needs beyond the kernel's own.
	Devices func() ([]string, error)
	// Images gives the agent its images; nil: pulled from registries. Tests set it.
	Images func(g *Guest) (agent.Images, error)
	// InLibraryOS says that the guest may also run where its kernel is a library OS;
	// Hardware is told of the descriptor behind which its TEE is then.
	InLibraryOS bool
	Hardware    func(*os.File)
	// SealingKey gives the TEE's sealing key by a policy of podpolicy; nil: it has none.
	// It is asked before anybody else opens the TEE.
	SealingKey func(ctx context.Context, policy string) ([]byte, error)

	lib *boot.LibraryOS // nil: a VM
}

// Guest is what a booted guest offers to who gives images.
type Guest struct {
	Initdata   *boot.Initdata
	TEE        string // wire name; "": none
	Supervisor *proc.Supervisor
	Log        *slog.Logger
	// LayerKey gives a connection on which the parser of the image with this
	// manifest digest can ask for layer keys (package layerkey).
	LayerKey func(manifestDigest string) (*os.File, error)
	Disks    agent.Disks
}

// Main runs PID 1. It does not return.
func Main(opt Options) {
	debug.SetMemoryLimit(24 << 20)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("guest", opt.Variant)
	_, err := os.Stat(debugMarker)
	debugging := err == nil
	if debugging {
		log.Warn("DEBUG GUEST IMAGE: its console shows what a release image keeps to itself")
	}
	if opt.Simulated {
		log.Warn("SIMULATED TEE: nothing in this guest is protected from its host")
	}
	if err := run(log, opt, debugging); err != nil {
		if opt.lib != nil {
			log.Error("guest halted", "err", err)
			opt.powerOff()
		}
		boot.Halt(log, err)
	}
	opt.powerOff()
}

// powerOff ends the guest at once.
func (opt *Options) powerOff() {
	if opt.lib != nil {
		opt.lib.PowerOff()
	}
	boot.PowerOff()
}

func run(log *slog.Logger, opt Options, debugging bool) error {
	ctx := context.Background()
	if err := opt.prepare(log); err != nil {
		return err
	}
	reaper := proc.NewReaper()
	go reaper.Run(ctx)

	// The host hears from the agent while modules load and initdata is read.
	server := agent.New(log)
	served := make(chan error, 1)
	go func() { served <- opt.serve(ctx, server) }()
	started := make(chan error, 1)
	go func() { started <- start(ctx, log, opt, reaper, server, debugging) }()
	if err := <-started; err != nil {
		return err
	}
	log.Info("guest ready", "uptime", uptime())
	return <-served
}

// prepare makes the guest's surroundings.
func (opt *Options) prepare(log *slog.Logger) error {
	if opt.lib != nil {
		return opt.prepareLibraryOS()
	}
	if err := boot.Filesystems(); err != nil {
		return err
	}
	if err := boot.TimerSlack(); err != nil {
		return err
	}
	if err := boot.OpenFiles(); err != nil {
		return err
	}
	if err := boot.ProbeTPM(); err != nil {
		log.Error("a TPM is named and cannot be used", "err", err)
	}
	if err := boot.Cgroups(); err != nil {
		return err
	}
	if err := boot.StartCPUs(); err != nil {
		log.Warn("the guest runs on with fewer CPUs", "error", err)
	}
	runtime.SetDefaultGOMAXPROCS() // this process began on one CPU
	return nil
}

func (opt *Options) serve(ctx context.Context, server *agent.Server) error {
	listen := virtioListen
	if opt.lib != nil {
		listen = opt.descriptorListen
	}
	l, err := listen(ctx)
	if err != nil {
		return fmt.Errorf("opening the guest channel: %w", err)
	}
	return server.Serve(ctx, l)
}

func virtioListen(ctx context.Context) (*channel.Listener, error) {
	return virtioport.Listen(ctx, channel.KindTTRPC, portWait)
}

func start(ctx context.Context, log *slog.Logger, opt Options, reaper *proc.Reaper, server *agent.Server, debugging bool) error {
	sup := &proc.Supervisor{Exe: exe, Reaper: reaper, Cgroup: boot.CgroupHelpers, Log: log, LibraryOS: opt.lib != nil}
	// Processes that need neither module nor TEE to start do so now: a VM with two
	// vCPUs has one to spare, and the first container waits for all of them.
	var keys *keyHolder
	var err error
	if opt.Simulated || boot.OnlyTPM() {
		if keys, err = startKeyHolder(ctx, sup, opt, ""); err != nil {
			return err
		}
	}
	if opt.Images == nil {
		if opt.Images, err = startUnpacker(sup, log); err != nil {
			return err
		}
	}
	if opt.lib == nil {
		if err := boot.Modules(!opt.Simulated); err != nil {
			return err
		}
	}
	if err := loopback(); err != nil {
		return err
	}
	in, tee, err := bindInitdata(log, opt)
	if err != nil {
		return err
	}
	disks, err := opt.volumes(ctx, log, in.Policy)
	if err != nil {
		return err
	}
	if in.Policy == nil {
		log.Warn("no pod policy in initdata: no container will start")
	}
	g := &Guest{Initdata: in, TEE: tee, Supervisor: sup, Log: log, Disks: disks}
	if keys == nil {
		if keys, err = startKeyHolder(ctx, sup, opt, tee); err != nil {
			return err
		}
	}
	if err := keys.give(g, opt); err != nil {
		return err
	}
	g.LayerKey = keys.LayerKey
	images, err := opt.Images(g)
	if err != nil {
		return err
	}
	if err := serveREST(ctx, g); err != nil {
		return err
	}
	enforcer := podpolicy.NewEnforcer(in.Policy)
	state := filepath.Join(boot.StateDir, "containers")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return fmt.Errorf("preparing containers: %w", err)
	}
	rt, err := container.NewRuntime(container.Options{
		Exe: exe, Reaper: reaper, CgroupRoot: boot.CgroupPods, StateDir: state,
		Exited: enforcer.Exited, OOM: server.OOM, Log: log, LibraryOS: opt.lib != nil,
	})
	if err != nil {
		return err
	}
	var onStart func()
	if debugging {
		onStart = reportMemory(log)
	}
	return server.Activate(agent.Options{
		Policy: in.Policy, Enforcer: enforcer, Runtime: rt, Images: images, Disks: disks, PowerOff: opt.powerOff, Log: log,
		ShowDenials: debugging, Started: onStart,
	})
}

// bindInitdata reads initdata and binds it to the TEE, which it names.
func bindInitdata(log *slog.Logger, opt Options) (*boot.Initdata, string, error) {
	open := opt.Register
	if open == nil {
		open = tpmRegister
	}
	reg, err := open(log)
	if err != nil {
		return nil, "", fmt.Errorf("opening the TEE: %w", err)
	}
	tee := ""
	if reg == nil {
		log.Warn("no TEE: nothing can be attested, no secret will come")
	} else {
		tee = reg.TEE()
		log.Info("TEE found", "tee", tee)
	}
	read := boot.ReadInitdata
	if opt.lib != nil {
		read = opt.lib.ReadInitdata
	}
	in, err := read(reg)
	if c, ok := reg.(io.Closer); ok { // the key holder opens it next
		err = errors.Join(err, c.Close())
	}
	return in, tee, err
}

func tpmRegister(*slog.Logger) (boot.Register, error) {
	if t, ok := boot.FindTPM(); ok {
		return t, nil
	}
	return nil, nil
}

// loopback brings up lo: the workload reaches the guest's services there.
func loopback() error {
	c, err := rtnetlink.Open()
	if err != nil {
		return err
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Loopback {
			return c.SetUp(l.Index, true)
		}
	}
	return fmt.Errorf("no loopback interface")
}

// uptime is the kernel's, for boot figures.
func uptime() string {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return ""
	}
	for i, c := range b {
		if c == ' ' {
			return string(b[:i])
		}
	}
	return ""
}
