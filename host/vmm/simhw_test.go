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
	for range 2 { // the port is opened anew each time
		c := dial(t, vm, 's')
		got, err := io.ReadAll(c)
		if err != nil || string(got) != "report over "+strings.Repeat("r", 64) {
			t.Errorf("report %q, %v", got, err)
		}
		_ = c.Close()
	}
	_ = syscall.Kill(vm.PIDs()["simhw"], syscall.SIGKILL)
	if e := vm.Wait(); e.Reason != nodeapi.ReasonCrashed {
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
