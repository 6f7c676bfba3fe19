package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/host/vmm"
	"github.com/cofferproject/coffer/test/child"
)

// What tells the hostile node what to do.
const (
	envChange = "COFFER_TEST_CHANGE" // a key of hostileChanges
	envNode   = "COFFER_TEST_NODE"   // the real coffer-node
	envLie    = "COFFER_TEST_LIE"    // if set: it says that it has launched what it was asked to
)

// hostileChanges are what a node may do to a launch between measure and start.
var hostileChanges = map[string]func(r *nodeapi.Request) error{
	"kernel": func(r *nodeapi.Request) error {
		// The same kernel for whoever runs it, and another file. Not by zeros: CCA
		// measures whole granules of memory, whose rest is zero anyway.
		return replaceFile(r, &r.Launch.Kernel, func(b []byte) []byte { return append(b, "another kernel"...) })
	},
	"argument": func(r *nodeapi.Request) error { r.Launch.Cmdline += " evil=1"; return nil },
	"initdata": func(r *nodeapi.Request) error {
		r.Launch.Initdata = append(r.Launch.Initdata, "# evil\n"...)
		return nil
	},
	// Of a process TEE: another first program in the library OS, another environment of
	// it, another flag of the library OS itself.
	"agent": func(r *nodeapi.Request) error {
		return replaceFile(r, &r.Launch.Initrd, func(b []byte) []byte { return append(b, "another agent"...) })
	},
	"environment": func(r *nodeapi.Request) error { r.Launch.Cmdline += " env:GODEBUG=evil=1"; return nil },
	"flag": func(r *nodeapi.Request) error {
		r.Launch.Cmdline = "-watchdog-action=panic " + r.Launch.Cmdline
		return nil
	},
	"vcpus":  func(r *nodeapi.Request) error { r.Launch.VCPUs++; return nil },
	noDevice: func(r *nodeapi.Request) error { r.Launch.SimDevices = nil; return nil },
	// The host's own vendor, of which it does not tell the owner.
	forgedDevice: func(r *nodeapi.Request) error { return otherVendor(r, "nvidia.json") },
}

// Changes to the devices beside the TEE.
const (
	noDevice     = "no device"
	forgedDevice = "forged device"
)

// otherVendor lets the node find all of the cache's simulated vendors but one, so
// that it makes that one anew.
func otherVendor(r *nodeapi.Request, file string) error {
	cache, err := vmm.CacheDir()
	if err != nil {
		return err
	}
	to := filepath.Join(filepath.Dir(r.RunDir), "othercache")
	const ca = "simhw-ca"
	if err := os.MkdirAll(filepath.Join(to, ca), 0o700); err != nil {
		return err
	}
	list, err := os.ReadDir(filepath.Join(cache, ca))
	if err != nil {
		return err
	}
	for _, e := range list {
		if !e.Type().IsRegular() || e.Name() == file {
			continue
		}
		b, err := os.ReadFile(filepath.Join(cache, ca, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, ca, e.Name()), b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return os.Setenv("COFFER_CACHE", to)
}

// tellNothing hands events on without what they say of devices.
func tellNothing(w io.Writer, r io.Reader) {
	d, e := json.NewDecoder(r), json.NewEncoder(w)
	for {
		ev := new(nodeapi.Event)
		if d.Decode(ev) != nil {
			return
		}
		if ev.Simulation != nil {
			ev.Simulation.Devices = nil
		}
		if e.Encode(ev) != nil {
			return
		}
	}
}

// replaceFile puts a changed copy in the place of a file.
func replaceFile(r *nodeapi.Request, f *launch.File, change func([]byte) []byte) error {
	b, err := os.ReadFile(f.Path)
	if err != nil {
		return err
	}
	p := filepath.Join(filepath.Dir(r.RunDir), filepath.Base(f.Path)+".evil")
	*f = launch.File{Path: p}
	return os.WriteFile(p, change(b), 0o755) // a program among them
}

// hostileNode is the test binary in the place of coffer-node: it changes the
// request and hands all else on.
func hostileNode() int {
	node := os.Getenv(envNode)
	if len(os.Args) < 2 || os.Args[1] != "sandbox" {
		err := syscall.Exec(node, append([]string{node}, os.Args[1:]...), os.Environ())
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	req := new(nodeapi.Request)
	d := json.NewDecoder(os.Stdin)
	err := d.Decode(req)
	asked := req.Launch
	if err == nil {
		err = hostileChanges[os.Getenv(envChange)](req)
	}
	cmd := exec.Command(node, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	told := make(chan struct{})
	if os.Getenv(envChange) == forgedDevice {
		events, w, perr := os.Pipe()
		err = errors.Join(err, perr)
		cmd.Stdout = w
		go func() { tellNothing(os.Stdout, events); close(told) }()
		defer func() { _ = w.Close(); <-told }()
	}
	if os.Getenv(envLie) != "" {
		cmd.Stdout = &liar{asked: &asked}
	}
	in, perr := cmd.StdinPipe()
	if err = errors.Join(err, perr); err == nil {
		err = child.Start(cmd, syscall.SIGTERM)
	}
	if err == nil {
		err = json.NewEncoder(in).Encode(req)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostile node:", err)
		return 1
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is the wish for the sandbox's end
		_ = in.Close()
	}()
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

// liar passes the node's events on and changes what they say was launched.
type liar struct {
	asked *launch.Spec
	line  []byte
}

func (l *liar) Write(b []byte) (int, error) {
	for _, c := range b {
		if l.line = append(l.line, c); c != '\n' {
			continue
		}
		var ev nodeapi.Event
		if err := json.Unmarshal(l.line, &ev); err != nil {
			return 0, err
		}
		if ev.Launched != nil {
			ev.Launched = l.asked
			ev.Launched.Initdata = nil
		}
		out, err := json.Marshal(ev)
		if err != nil {
			return 0, err
		}
		if _, err := os.Stdout.Write(append(out, '\n')); err != nil {
			return 0, err
		}
		l.line = l.line[:0]
	}
	return len(b), nil
}

// hostileBin is a folder of binaries whose coffer-node is hostile.
func (e *env) hostileBin(t *testing.T) *env {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := *e
	if out.bin, err = os.MkdirTemp(e.dir, "bin"); err != nil {
		t.Fatal(err)
	}
	neighbours := map[string]string{"coffer": filepath.Join(e.bin, "coffer"), "coffer-node": self}
	for _, name := range []string{"coffer-runsc", "coffer-guest-sim"} { // of process TEEs
		if _, err := os.Stat(filepath.Join(e.bin, name)); err == nil {
			neighbours[name] = filepath.Join(e.bin, name)
		}
	}
	for name, from := range neighbours {
		if from, err = filepath.EvalSymlinks(from); err != nil {
			t.Fatal(err)
		}
		// A copy: a program finds its neighbours by where it lies itself.
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(out.bin, name), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	node, err := filepath.EvalSymlinks(filepath.Join(e.bin, "coffer-node"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(e.bin, "coffer-trustee"), filepath.Join(out.bin, "coffer-trustee")); err != nil {
		t.Fatal(err)
	}
	out.vars = []string{envNode + "=" + node}
	return &out
}
