package shim

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	osexec "os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/host/supervise"
)

const (
	socketDir   = "/run/containerd/s"
	addressFile = "address"
	// runDirFile names, in the sandbox's bundle, the folder of run directories.
	runDirFile = "coffer-run-dir"
	// identityFile names, in the sandbox's bundle, the shim's process beyond its pid.
	identityFile = "coffer-shim.json"
	// socketFD is the listening socket that start passes on.
	socketFD = 3
)

type arguments struct {
	namespace, id, address, publish, socket, bundle string
	debug                                           bool
	action                                          string
}

// Main is containerd-shim-coffer-v2.
func Main(args []string, stdin io.Reader, stdout io.Writer) error {
	var a arguments
	fs := flag.NewFlagSet("containerd-shim-coffer-v2", flag.ContinueOnError)
	fs.StringVar(&a.namespace, "namespace", "", "containerd's namespace of the task")
	fs.StringVar(&a.id, "id", "", "the task")
	fs.StringVar(&a.address, "address", "", "containerd's gRPC socket")
	fs.StringVar(&a.publish, "publish-binary", "", "accepted for older containerd; events go over ttrpc")
	fs.StringVar(&a.socket, "socket", "", "accepted for older containerd")
	fs.StringVar(&a.bundle, "bundle", "", "the task's bundle, if it is not the working directory")
	fs.BoolVar(&a.debug, "debug", false, "log more")
	info := fs.Bool("info", false, "say what runtime this is")
	version := fs.Bool("v", false, "print the version")
	if err := fs.Parse(args); err != nil {
		return err
	}
	a.action = fs.Arg(0)
	switch {
	case *version:
		_, err := fmt.Fprintln(stdout, "containerd-shim-coffer-v2", Version)
		return err
	case *info:
		return writeInfo(stdout)
	case a.namespace == "" || a.id == "":
		return errors.New("containerd starts this program: -namespace and -id are missing")
	case strings.ContainsAny(a.id, "/\x00") || a.id == "." || a.id == "..":
		return fmt.Errorf("id %q is none", a.id)
	}
	if a.bundle == "" {
		wd, err := os.Getwd()
		if err != nil {
			return err
		}
		a.bundle = wd
	}
	switch a.action {
	case "start":
		return a.start(stdin, stdout)
	case "delete":
		return a.delete(stdout)
	case "":
		return a.serve()
	default:
		return fmt.Errorf("no action %q", a.action)
	}
}

// writeInfo says what runtime this is, as containerd asks before each pod.
func writeInfo(w io.Writer) error {
	b, err := proto.Marshal(&types.RuntimeInfo{Name: runtimeName, Version: &types.RuntimeVersion{Version: Version}})
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Version is the shim's.
const Version = "0.1"

// runtimeName is what containerd's configuration calls the shim.
const runtimeName = "io.containerd.coffer.v2"

// socketOf gives the socket of a sandbox's shim: the same for all of its tasks.
func (a *arguments) socketOf(sandboxID string) string {
	sum := sha256.Sum256([]byte(filepath.Join(a.address, a.namespace, "coffer", sandboxID)))
	return filepath.Join(socketDir, fmt.Sprintf("%x", sum))
}

// start begins a pod's shim, or finds the one that runs, and says where it listens.
func (a *arguments) start(stdin io.Reader, stdout io.Writer) error {
	// Newer containerd says here who it is; older ones give the options, which come
	// again with Create.
	said, err := io.ReadAll(io.LimitReader(stdin, maxSpec))
	if err != nil {
		return fmt.Errorf("reading containerd's parameters: %w", err)
	}
	sandboxID, isSandbox, err := a.role(said)
	if err != nil {
		return err
	}
	path := a.socketOf(sandboxID)
	undo := func() {}
	if isSandbox {
		if undo, err = a.spawn(path); err != nil {
			return err
		}
	} else if c, err := net.DialTimeout("unix", path, 5*time.Second); err != nil {
		return fmt.Errorf("the shim of sandbox %s does not answer: %w", sandboxID, err)
	} else {
		_ = c.Close()
	}
	if err := os.WriteFile(filepath.Join(a.bundle, addressFile), []byte("unix://"+path), 0o600); err != nil {
		undo()
		return fmt.Errorf("recording the address: %w", err)
	}
	if err := answer(stdout, "unix://"+path, readsJSON(said)); err != nil {
		undo()
		return fmt.Errorf("answering containerd: %w", err)
	}
	return nil
}

// role says what is to be started. A bundle without a config.json is a sandbox of the
// sandbox API: what it is comes with CreateSandbox, and its handler's options come here
// alone.
func (a *arguments) role(said []byte) (sandboxID string, isSandbox bool, err error) {
	spec, err := readSpec(a.bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return a.id, true, a.writeOptions(said)
	}
	if err != nil {
		return "", false, err
	}
	return role(spec, a.id)
}

// readsJSON tells from what containerd gives to start whether it has the bootstrap
// protocol (2.3 and later). Every other one reads a bare address.
func readsJSON(said []byte) bool {
	p := new(bootapi.BootstrapParams)
	return proto.Unmarshal(said, p) == nil && p.GetContainerdVersion() != "" && p.GetInstanceID() != ""
}

// answer says where the shim listens: a bare address stands for version 2 of the
// task API.
func answer(w io.Writer, address string, document bool) error {
	if !document {
		_, err := io.WriteString(w, address)
		return err
	}
	return json.NewEncoder(w).Encode(struct {
		Version  int    `json:"version"`
		Address  string `json:"address"`
		Protocol string `json:"protocol"`
	}{3, address, "ttrpc"})
}

// spawn starts the serving process with a socket that listens already. undo takes both
// back: of a start that fails, containerd knows no shim.
func (a *arguments) spawn(path string) (undo func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("making the socket's folder: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("a shim for sandbox %s runs already", a.id)
	}
	_ = os.Remove(path) // of one that crashed
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	f, err := l.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"-namespace", a.namespace, "-id", a.id, "-address", a.address, "-bundle", a.bundle}
	if a.debug {
		args = append(args, "-debug")
	}
	cmd := osexec.Command(self, args...)
	cmd.Dir = a.bundle
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1") // it mostly waits: a second processor of Go's costs more than it brings
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		_ = os.Remove(path)
		return nil, fmt.Errorf("starting the shim: %w", err)
	}
	undo = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.Remove(path)
	}
	err = supervise.WriteIdentity(filepath.Join(a.bundle, identityFile), cmd.Process.Pid)
	if err == nil {
		err = os.WriteFile(filepath.Join(a.bundle, "shim.pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
	}
	if err != nil {
		undo()
		return nil, fmt.Errorf("recording the shim's process: %w", err)
	}
	return undo, nil
}

// The heap is collected when it has grown by so many percent, once the pod is there: little,
// since a node has a shim for each pod. While it starts, collecting costs more than it
// brings, and only startLimit bounds what the runtime takes.
const (
	restGC     = 40
	startLimit = 24 << 20
)

// serve is the shim of one pod.
func (a *arguments) serve() error {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(startLimit)
	log, err := openLog(a.bundle, a.debug)
	if err != nil {
		return err
	}
	l, err := net.FileListener(os.NewFile(socketFD, "socket"))
	if err != nil {
		return fmt.Errorf("no listening socket was passed on: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP)
	ev := newPublisher(strings.TrimPrefix(os.Getenv("TTRPC_ADDRESS"), "unix://"), a.namespace, log)
	options, err := a.readOptions()
	if err != nil {
		_ = os.Remove(a.socketOf(a.id))
		return err
	}
	svc := newService(a.id, a.bundle, options, ev, cancel, log)
	srv, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	register(srv, svc)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ctx, l) }()
	select {
	case <-ctx.Done():
	case sig := <-signals:
		log.Info("ending", "signal", sig.String())
	case err = <-failed:
	}
	svc.finish()
	sctx, scancel := context.WithTimeout(context.Background(), time.Second)
	defer scancel()
	_ = srv.Shutdown(sctx) // the answer to Shutdown gets out
	_ = os.Remove(a.socketOf(a.id))
	return err
}

// end destroys a pod that is still there.
func (s *Service) end() {
	s.abort()
	s.mu.Lock()
	p := s.pod
	s.mu.Unlock()
	if p == nil {
		return
	}
	if err := p.destroy(); err != nil {
		s.log.Error("destroying the pod", "error", err)
	}
}

// Bounds of the end of a shim that still has its pod.
const (
	exitsTimeout = 2 * time.Second
	// exitsSettle is for the last exit, which is told right after it is recorded.
	exitsSettle   = 50 * time.Millisecond
	eventsTimeout = 5 * time.Second
)

// finish destroys a pod that is still there and waits until containerd was told of the
// end of all that was in it.
func (s *Service) finish() {
	s.end()
	s.awaitExits(exitsTimeout)
	s.events.close(eventsTimeout)
}

// awaitExits waits until watchVM has ended every task of a pod that was destroyed.
func (s *Service) awaitExits(timeout time.Duration) {
	s.mu.Lock()
	tasks := slices.Collect(maps.Values(s.containers))
	s.mu.Unlock()
	if len(tasks) == 0 {
		return
	}
	var all []*proc
	for _, c := range tasks { // not under s.mu: watchVM takes it while it holds execMu
		all = append(all, c.proc)
		c.execMu.Lock()
		for _, x := range c.execs {
			all = append(all, x.proc)
		}
		c.execMu.Unlock()
	}
	late := time.After(timeout)
	for _, p := range all {
		select {
		case <-p.done:
		case <-late:
			s.log.Error("ending before the exit of every task was told")
			return
		}
	}
	time.Sleep(exitsSettle)
}

// openLog writes to the FIFO that containerd reads, if there is one.
func openLog(bundle string, verbose bool) (*slog.Logger, error) {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	var w io.Writer = os.Stderr
	if f, err := os.OpenFile(filepath.Join(bundle, "log"), os.O_RDWR, 0); err == nil {
		w = f
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}
