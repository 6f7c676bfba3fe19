package libos

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	contract "github.com/cofferproject/coffer/api/libos"
)

func testSpec(t *testing.T) *launch.Spec {
	t.Helper()
	dir := t.TempDir()
	for _, n := range []string{"runtime", "agent"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &launch.Spec{
		TEE: launch.SGXSim, Kernel: launch.File{Path: filepath.Join(dir, "runtime")}, Initrd: launch.File{Path: filepath.Join(dir, "agent")},
		Cmdline: contract.DefaultCmdline(1), MemoryMiB: 256, VCPUs: 1,
	}
}

func TestRefusedLaunches(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("refused before all else without root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{CacheDir: t.TempDir(), SimHW: self})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.check(testSpec(t)); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*launch.Spec){
		"not a process TEE":         func(s *launch.Spec) { s.TEE = launch.SNPSim },
		"no -- in the command line": func(s *launch.Spec) { s.Cmdline = "-a=b" },
		"is the launcher's":         func(s *launch.Spec) { s.Cmdline = "-root=/x " + s.Cmdline },
		"the library OS is missing": func(s *launch.Spec) { s.Kernel.Path += "x" },
		"the agent is missing":      func(s *launch.Spec) { s.Initrd.Path += "x" },
		"not a regular file":        func(s *launch.Spec) { s.Kernel.Path = "/" },
		"publishes tcp ports":       func(s *launch.Spec) { s.Publish = []launch.PortForward{{HostPort: 1, GuestPort: 1, Protocol: "udp"}} },
		"has no firmware":           func(s *launch.Spec) { s.Firmware.Path = "x" },
		"sim_devices":               func(s *launch.Spec) { s.SimDevices = []string{"nvidia"} },
	} {
		s := testSpec(t)
		change(s)
		if _, err := d.check(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := New(Options{}); err == nil {
		t.Error("a driver without anything")
	}
}

func TestBundle(t *testing.T) {
	s, dir := testSpec(t), t.TempDir()
	if err := makeBundle(dir, s, ""); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, contract.RootFS, contract.Agent))
	if err != nil || string(b) != "agent" {
		t.Errorf("%q, %v", b, err)
	}
	s.Initrd.SHA256 = strings.Repeat("0", 64)
	if err := makeBundle(t.TempDir(), s, ""); err == nil || !strings.Contains(err.Error(), "the launch spec says") {
		t.Errorf("another agent than was asked for: %v", err)
	}
}

// Nobody changes initdata once it is there.
func TestMemoryFileIsSealed(t *testing.T) {
	f, err := memoryFile("test", []byte("document"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it can be changed")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("it can be cut")
	}
	r, err := reader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := make([]byte, 20)
	if n, _ := r.Read(b); string(b[:n]) != "document" {
		t.Errorf("%q", b[:n])
	}
}
