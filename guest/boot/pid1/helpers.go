package pid1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/guest/boot"
	"github.com/cofferproject/coffer/guest/keyholder"
	"github.com/cofferproject/coffer/guest/keyholder/layerkey"
	"github.com/cofferproject/coffer/guest/proc"
	"github.com/cofferproject/coffer/guest/restapi"
	"github.com/cofferproject/coffer/guest/unpacker"
	"github.com/cofferproject/coffer/tee/aael"
)

// Names (argv[0]) of the helper processes.
const (
	keyholderName = "coffer-keyholder"
	restName      = "coffer-rest"
)

// User and group ids of the helper processes; nothing else in the guest has them.
const (
	keyholderID = 65101
	restID      = 65102
	cdhGroup    = 65103 // may connect to the key holder's sockets for workloads
)

// Memory of the helper processes. Over it they are killed and started again.
const (
	keyholderMemory = 64 << 20
	restMemory      = 32 << 20
)

// descriptors of the key holder, after stdin, stdout, stderr
const (
	fdControl = 3 + iota
	fdInitdata
	fdHardware // with hardwareArg
)

// fdListener is the REST server's descriptor.
const fdListener = 3

// keyHolder is PID 1's hold on the key holder process, which waits for initdata.
type keyHolder struct {
	capabilities []string
	hardware     *os.File // nil: the TEE is a device

	plain []byte // nil: no device; final when given is closed
	given chan struct{}

	mu      sync.Mutex
	control *net.UnixConn
}

// LayerKey gives a connection on which the parser of the image with this
// manifest digest can ask for layer keys (package layerkey).
func (k *keyHolder) LayerKey(manifestDigest string) (*os.File, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.control == nil {
		return nil, errors.New("the key holder does not run")
	}
	return layerkey.HandOver(k.control, manifestDigest)
}

// needsRoot are the TEEs whose requests in configfs-tsm are folders with root's files.
var needsRoot = []string{"snp", "tdx", "cca"}

// startKeyHolder starts the key holder, of whom the TEE (its wire name, "" if it
// is not known yet) may ask for a capability.
func startKeyHolder(ctx context.Context, sup *proc.Supervisor, opt Options, tee string) (*keyHolder, error) {
	for _, d := range []string{filepath.Dir(keyholder.CDHSocket), filepath.Dir(keyholder.AASocket), aael.Dir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("starting the key holder: %w", err)
		}
		if err := os.Chown(d, keyholderID, keyholderID); err != nil {
			return nil, fmt.Errorf("starting the key holder: %w", err)
		}
	}
	k := &keyHolder{capabilities: []string{"CAP_IPC_LOCK"}, given: make(chan struct{})}
	if opt.lib != nil {
		k.hardware = opt.lib.Hardware()
	}
	if !opt.Simulated && slices.Contains(needsRoot, tee) {
		k.capabilities = append(k.capabilities, "CAP_DAC_OVERRIDE")
	}
	return k, sup.Keep(ctx, keyholderName, func() (*proc.Spec, error) { return k.spec(ctx) })
}

// give lets the key holder have the TEE and initdata, which is bound by now.
func (k *keyHolder) give(g *Guest, opt Options) error {
	if !opt.Simulated && slices.Contains(needsRoot, g.TEE) && !slices.Contains(k.capabilities, "CAP_DAC_OVERRIDE") {
		return fmt.Errorf("the kernel named no TEE driver at first, and now there is %s", g.TEE)
	}
	var devices []string
	if opt.Devices != nil {
		var err error
		if devices, err = opt.Devices(); err != nil {
			return fmt.Errorf("starting the key holder: %w", err)
		}
	}
	if err := boot.ShareTEE(keyholderID, devices...); err != nil {
		return err
	}
	k.plain = g.Initdata.Plain
	close(k.given)
	return nil
}

// serveREST starts the REST server when the first workload asks for it: many
// never do, and until then its memory and its start are the workload's. PID 1
// holds the listening socket, so that who asks only waits, and no workload can
// take the address.
func serveREST(ctx context.Context, g *Guest) error {
	l, err := net.Listen("tcp", restapi.DefaultAddr)
	if err != nil {
		return fmt.Errorf("listening for workloads: %w", err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("listening for workloads: the listener is a %T", l)
	}
	f, err := tcp.File()
	if err != nil {
		return fmt.Errorf("listening for workloads: %w", err)
	}
	go func() {
		defer l.Close() // the file is a descriptor of its own
		if err := readable(f); err != nil {
			g.Log.Error("waiting for workloads", "err", err)
		}
		err := g.Supervisor.Keep(ctx, restName, func() (*proc.Spec, error) {
			return &proc.Spec{
				Name: restName, UID: restID, GID: restID, Groups: []uint32{cdhGroup},
				Namespaces:  unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
				MemoryLimit: restMemory, Pids: 32, Files: []*os.File{f},
			}, nil
		})
		if err != nil {
			g.Log.Error("starting the REST server", "err", err)
		}
	}()
	return nil
}

// readable waits, on a thread of its own, until a connection waits at the
// listening socket, and takes nothing from it.
func readable(f *os.File) error {
	p := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(p, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// spec makes a fresh control connection for each start of the key holder, and a
// pipe that brings it initdata.
func (k *keyHolder) spec(ctx context.Context) (*proc.Spec, error) {
	control, far, err := layerkey.ControlPair()
	if err != nil {
		return nil, err
	}
	doc, w, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making pipe: %w", err), control.Close(), far.Close())
	}
	go func() {
		defer w.Close()
		select {
		case <-k.given:
			_ = writeInitdata(w, k.plain) // fails when the process has ended
		case <-ctx.Done():
		}
	}()
	k.mu.Lock()
	if k.control != nil {
		_ = k.control.Close()
	}
	k.control = control
	k.mu.Unlock()
	files, args := []*os.File{far, doc}, []string(nil)
	if k.hardware != nil {
		hw, err := duplicate(k.hardware)
		if err != nil {
			return nil, errors.Join(err, far.Close(), doc.Close())
		}
		files, args = append(files, hw), []string{hardwareArg}
	}
	return &proc.Spec{
		Name: keyholderName, Args: args, UID: keyholderID, GID: keyholderID, Groups: []uint32{cdhGroup},
		Capabilities: k.capabilities,
		Namespaces:   unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		MemoryLimit:  keyholderMemory, Pids: 64,
		Files: files, Owned: true,
		NoDump: true, Locked: true,
	}, nil
}

// duplicate gives another descriptor of the same open file, which f's owner keeps.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("sharing %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// The pipe's first byte: no device is not the same as an empty document.
const (
	pipeNone     = '0'
	pipeDocument = '1'
)

func writeInitdata(w io.Writer, plain []byte) error {
	if plain == nil {
		_, err := w.Write([]byte{pipeNone})
		return err
	}
	_, err := w.Write(append([]byte{pipeDocument}, plain...))
	return err
}

// readInitdata gives what writeInitdata wrote, nil for no device.
func readInitdata(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, 1+initdata.MaxPlain+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading initdata: %w", err)
	case len(b) == 1 && b[0] == pipeNone:
		return nil, nil
	case len(b) == 0 || b[0] != pipeDocument:
		return nil, errors.New("reading initdata: the guest's first process gave none")
	case len(b) > 1+initdata.MaxPlain:
		return nil, fmt.Errorf("reading initdata: more than %d bytes", initdata.MaxPlain)
	}
	return b[1:], nil
}

// helper wraps an entry point: confine first, end by SIGTERM, log to the console.
func helper(name string, run func(ctx context.Context, log *slog.Logger, args []string) error) func([]string) int {
	return func(args []string) int {
		log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", name)
		err := proc.Confine()
		if err == nil {
			var ctx context.Context
			var stop context.CancelFunc
			ctx, stop = signal.NotifyContext(context.Background(), unix.SIGTERM)
			defer stop()
			err = run(ctx, log, args)
		}
		if err != nil {
			log.Error("helper failed", "err", err)
			return 1
		}
		return 0
	}
}

func (opt *Options) keyholderMain(ctx context.Context, log *slog.Logger, args []string) error {
	if err := opt.takeHardware(args); err != nil {
		return fmt.Errorf("taking over the hardware: %w", err)
	}
	control, err := layerkey.FileControl(os.NewFile(fdControl, "control"))
	if err != nil {
		return err
	}
	f := os.NewFile(fdInitdata, "initdata")
	plain, err := readInitdata(f)
	_ = f.Close()
	if err != nil {
		return err
	}
	floor, err := boot.Floor()
	if err != nil {
		return err
	}
	s, err := keyholder.New(keyholder.Config{
		Initdata: plain, OpenAttester: func() (keyholder.Attester, error) {
			a, err := opt.OpenAttester(log)
			if err != nil {
				log.Error("no attestation: opening the TEE failed", "err", err)
			}
			return a, err
		},
		OpenDevices: opt.OpenDevices, Floor: floor, Control: control, EventSocket: keyholder.EventSocket, SocketGID: cdhGroup, Logger: log,
	})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

func restMain(ctx context.Context, log *slog.Logger, _ []string) error {
	l, err := net.FileListener(os.NewFile(fdListener, "listener"))
	if err != nil {
		return fmt.Errorf("taking over the listener: %w", err)
	}
	return restapi.Run(ctx, restapi.Config{
		Listener: l, CDHSocket: keyholder.CDHSocket, EventSocket: keyholder.EventSocket, Refused: []uint32{unpacker.ParserUID}, Logger: log,
	})
}
