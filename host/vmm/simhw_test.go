package vmm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	apisimhw "github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/host/simhw"
)

// The test binary also plays coffer-simhw: hardware that measures each input by
// itself.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "coffer-simhw" {
		power := func(_ *simhw.Config, in *simhw.Inputs) (*simhw.Model, error) {
			if in.VCPUs == 3 {
				return nil, errors.New("this hardware has no third vCPU")
			}
			return &simhw.Model{Hardware: echoHW{}, Provider: "test", Digests: map[string]string{
				"kernel": sum(in.Kernel), "initrd": sum(in.Initrd), "cmdline": in.Cmdline, "initdata": string(in.Initdata),
				"memory": strconv.Itoa(in.MemoryMiB), "vcpus": strconv.Itoa(in.VCPUs), "firmware": sum(in.Firmware), "cpu": in.CPUModel,
			}}, nil
		}
		if err := simhw.Main(context.Background(), map[launch.TEE]simhw.Power{launch.SNPSim: power}, nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

type echoHW struct{}

func (echoHW) Handle(_ context.Context, op apisimhw.Op, _ byte, p []byte) ([]byte, error) {
	if op != apisimhw.OpReport {
		return nil, simhw.ErrUnsupported
	}
	return append([]byte("report over "), p...), nil
}

// checkDropped reads off the kernel what coffer-simhw may do while it serves the
// guest: nothing but that.
func checkDropped(t *testing.T, pid, qemu int) {
	t.Helper()
	status := func(pid int) map[string]string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]string{}
		for _, l := range strings.Split(string(b), "\n") {
			k, v, _ := strings.Cut(l, ":")
			m[k] = strings.Join(strings.Fields(v), " ")
		}
		return m
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, th := range threads {
		tid, err := strconv.Atoi(th.Name())
		if err != nil {
			t.Fatal(err)
		}
		s := status(tid)
		if s["NoNewPrivs"] != "1" {
			t.Errorf("thread %d of coffer-simhw may gain privileges: NoNewPrivs %q", tid, s["NoNewPrivs"])
		}
		if os.Geteuid() != 0 {
			continue // it runs as this user
		}
		for _, id := range []string{"Uid", "Gid"} {
			f := strings.Fields(s[id])
			if len(f) != 4 || f[0] == "0" || f[0] != f[1] || f[0] != f[2] || f[0] != f[3] {
				t.Errorf("thread %d of coffer-simhw has %s %q", tid, id, s[id])
			}
		}
		if s["Uid"] == status(qemu)["Uid"] {
			t.Errorf("coffer-simhw runs under QEMU's uid, %s", s["Uid"])
		}
		if s["Groups"] != "" || strings.Trim(s["CapEff"]+s["CapPrm"]+s["CapInh"]+s["CapAmb"], "0") != "" {
			t.Errorf("thread %d of coffer-simhw: groups %q, capabilities %s %s %s %s", tid, s["Groups"], s["CapEff"], s["CapPrm"], s["CapInh"], s["CapAmb"])
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	sockets := 0
	for _, fd := range fds {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case len(fd.Name()) == 1 && fd.Name() <= "2": // no input, and the launcher's pipe for what it says
		case to == "anon_inode:[eventpoll]", to == "anon_inode:[eventfd]", strings.HasPrefix(to, "/sys/fs/cgroup/"): // Go's own
		case strings.HasPrefix(to, "socket:"):
			sockets++
		default:
			t.Errorf("coffer-simhw has descriptor %s to %s", fd.Name(), to)
		}
	}
	if sockets != 1 {
		t.Errorf("coffer-simhw has %d sockets, want the guest's port alone", sockets)
	}
}

// simHW gives the path under which the test binary is coffer-simhw.
func simHW(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), "coffer-simhw")
	if err := os.Symlink(self, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// simSpec is a spec of a TEE that coffer-simhw plays, with a firmware that is
// measured and never run.
func (b *bench) simSpec(t *testing.T) *launch.Spec {
	t.Helper()
	s := b.spec(t, launch.SNPSim)
	fw := filepath.Join(t.TempDir(), "tee.fd")
	if err := os.WriteFile(fw, []byte("firmware"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.TEEFirmware, s.CPUModel, s.VCPUs = launch.File{Path: fw}, "EPYC-v4", 2
	return s
}

// TestSimHWMeasuresTheRunningMachine checks that what hardware would measure is
// taken from QEMU.
func TestSimHWMeasuresTheRunningMachine(t *testing.T) {
	b := setup(t)
	s := b.simSpec(t)
	s.Cmdline += " an.argument=1"
	vm := b.launch(t, s, Options{SimHW: simHW(t)})
	sim := vm.Simulation()
	kernel, err := os.ReadFile(s.Kernel.Path)
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := os.ReadFile(b.initrd)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"kernel": sum(kernel), "initrd": sum(initrd), "cmdline": s.Cmdline, "initdata": string(s.Initdata),
		"memory": "256", "vcpus": "2", "firmware": sum([]byte("firmware")), "cpu": "EPYC-v4",
	} {
		if sim.Digests[name] != want {
			t.Errorf("%s: measured %q, want %q", name, sim.Digests[name], want)
		}
	}
	t.Log(sim.Note)
	checkDropped(t, vm.PIDs()["simhw"], vm.PIDs()["qemu"])
	for range 2 { // the port is opened anew each time
		c := dial(t, vm, 's')
		got, err := io.ReadAll(c)
		if err != nil || string(got) != "report over "+strings.Repeat("r", 64) {
			t.Errorf("report %q, %v", got, err)
		}
		_ = c.Close()
	}
	_ = syscall.Kill(vm.PIDs()["simhw"], syscall.SIGKILL)
	if e := vm.Wait(); e.Reason != nodeapi.ReasonCrashed || e.Detail != "coffer-simhw ended: signal: killed" {
		t.Errorf("without its hardware: exit %+v", e)
	}
}

func TestSimHWRefuses(t *testing.T) {
	b := setup(t)
	for _, c := range []struct {
		name, want string
		change     func(*launch.Spec, *Options)
	}{
		{"no program", "coffer-simhw is missing", func(_ *launch.Spec, o *Options) { o.SimHW = "/nonexistent" }},
		{"not played", "no TEE that is simulated", func(s *launch.Spec, _ *Options) { s.TEE = launch.TDXSim }},
		{"cannot measure", "no third vCPU", func(s *launch.Spec, _ *Options) { s.VCPUs = 3 }},
		{"firmware that would boot", "boots its kernel directly", func(s *launch.Spec, _ *Options) { s.Firmware = s.TEEFirmware }},
		{"other TEE firmware", "SHA-256", func(s *launch.Spec, _ *Options) { s.TEEFirmware.SHA256 = strings.Repeat("0", 64) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, o := b.simSpec(t), Options{CacheDir: b.cache, SimHW: simHW(t)}
			c.change(s, &o)
			d, err := New(b.p, o)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = d.Launch(context.Background(), "test", runDir(t), s, func(string) {}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("err = %v, want %q in it", err, c.want)
			}
		})
	}
}
