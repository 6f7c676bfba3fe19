package vmm

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/host/vmm/qmp"
	"github.com/cofferproject/coffer/test/launchcases"
)

var hardwareHost = Machine{QEMUMajor: 10, KVM: true, Host: HostCPU{CBit: 51, Reduced: 5, PhysBits: 52}}

func hardwareLine(t *testing.T, s *launch.Spec) []string {
	t.Helper()
	bind, err := Bind(s)
	if err != nil {
		t.Fatal(err)
	}
	p := Paths{
		ROMs: []string{"/dev/fd/3", "/dev/fd/4"}, Kernel: "/dev/fd/5", Console: 11, QMP: 10, Channel: 12, KVM: 14,
		Hardware: HardwarePaths{Bind: bind},
	}
	if s.Initrd.Path != "" {
		p.Initrd = "/dev/fd/6"
	}
	if s.Initdata != nil {
		p.Initdata = 9
	}
	if s.TEE.Firmware() != "" {
		p.Hardware.Firmware = "/dev/fd/7"
	}
	if s.TEE.SEVFamily() {
		p.Hardware.SEV = "/dev/fd/20"
	}
	if s.TEE == launch.TDX {
		p.Hardware.QuoteSocket = DefaultQuoteSocket
	}
	if s.SNP != nil && s.SNP.DHCert != nil {
		p.Hardware.DHCert, p.Hardware.Session = "/dev/fd/21", "/dev/fd/22"
	}
	for i, d := range s.Disks {
		p.Disks = append(p.Disks, DiskPath{40 + i, strings.HasPrefix(d.Path, "/dev/")})
	}
	for i := range s.HostDevices {
		p.Hardware.IOMMU = 23
		p.Hardware.Devices = append(p.Hardware.Devices, 24+i)
		p.Hardware.DevicesMiB = append(p.Hardware.DevicesMiB, 128<<10+32)
	}
	return CommandLine(&platform.Platform{QEMU: platform.QEMU{ArgsPrefix: []string{"-L", "/a", "-L", "/b"}}}, hardwareHost, s, p)
}

func TestHardwareCommandLine(t *testing.T) {
	seen := map[launch.TEE]bool{}
	for _, c := range launchcases.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			seen[c.Spec.TEE] = true
			args := hardwareLine(t, &c.Spec)
			for i, a := range args {
				if i == 0 || args[i-1] != "-device" {
					continue
				}
				if strings.HasPrefix(a, "virtio-") && !strings.Contains(a, ",iommu_platform=on") {
					t.Errorf("%s: would read memory that the guest does not share", a)
				}
				if (strings.Contains(a, "-pci,") && !strings.Contains(a, "romfile=")) || strings.Contains(a, "/") {
					t.Errorf("%s: an option ROM, or a path", a)
				}
			}
			golden(t, "hw-"+c.Name, strings.Join(args, "\n")+"\n")
		})
	}
	for _, tee := range launch.HardwareTEEs {
		if !seen[tee] {
			t.Errorf("no case of %s", tee)
		}
	}
}

// installedQEMU finds a QEMU that may be asked about its objects and devices.
func installedQEMU(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("COFFER_QEMU"); p != "" {
		return p
	}
	if cache, err := CacheDir(); err == nil {
		if m, _ := filepath.Glob(filepath.Join(cache, "packages", "qemu-system-x86_*", "usr", "bin", "qemu-system-x86_64")); len(m) > 0 {
			return m[0]
		}
	}
	p, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no QEMU of x86 here: set COFFER_QEMU")
	}
	return p
}

// schema asks a QEMU without a machine.
type schema struct {
	t *testing.T
	c *qmp.Client
}

func askQEMU(t *testing.T) *schema {
	t.Helper()
	ours, child, err := socketPair("qmp")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(installedQEMU(t), "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control")
	cmd.ExtraFiles = []*os.File{child}
	err = cmd.Start()
	_ = child.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := qmp.New(ctx, ours, func(qmp.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &schema{t, c}
}

// properties gives the names of a type's properties; nil: QEMU has no such type.
func (s *schema) properties(command, typename string) []string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	b, err := s.c.Execute(ctx, command, map[string]string{"typename": typename})
	if err != nil {
		return nil
	}
	var ps []struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(b, &ps); err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, p := range ps {
		out = append(out, p.Name)
	}
	return out
}

// newestQ35 gives the machine that "q35" is a name for.
func (s *schema) newestQ35() string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	b, err := s.c.Execute(ctx, "query-machines", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	var ms []struct{ Name, Alias string }
	if err := json.Unmarshal(b, &ms); err != nil {
		s.t.Fatal(err)
	}
	for _, m := range ms {
		if m.Alias == "q35" {
			return m.Name
		}
	}
	s.t.Fatal("this QEMU has no q35")
	return ""
}

// TestQEMUKnowsEveryProperty holds every property of every object, device and
// machine of the command lines against what QEMU itself says it has. QEMU 10.0 has no
// tdx-guest, one for x86 no machine of s390 and Arm: these are left out, by name.
func TestQEMUKnowsEveryProperty(t *testing.T) {
	q := askQEMU(t)
	absent := map[string]bool{"tdx-guest": true, "rme-guest": true, "s390-pv-guest": true}
	if q.properties("qom-list-properties", "no-such-guest") != nil {
		t.Fatal("QEMU knows everything")
	}
	newest := q.newestQ35()
	checked := 0
	for _, c := range launchcases.Cases() {
		if c.Spec.TEE == launch.SE || c.Spec.TEE == launch.CCA {
			continue
		}
		args := hardwareLine(t, &c.Spec)
		for i := 1; i < len(args); i++ {
			command, suffix := map[string]string{"-object": "qom-list-properties", "-device": "device-list-properties", "-machine": "qom-list-properties", "-accel": "qom-list-properties"}[args[i-1]], ""
			if command == "" {
				continue
			}
			if o := args[i-1]; o == "-machine" || o == "-accel" {
				suffix = o
			}
			kind, names := propertiesOf(t, args[i])
			if kind == "q35" {
				kind = newest
			}
			have := q.properties(command, kind+suffix)
			if have == nil {
				if !absent[kind] {
					t.Errorf("%s: QEMU has no %q", c.Name, kind)
				}
				continue
			}
			for _, n := range names {
				if checked++; !slices.Contains(have, n) && n != "id" && n != "bus" {
					t.Errorf("%s: %s of QEMU has no property %q", c.Name, kind, n)
				}
			}
		}
	}
	t.Logf("%d properties", checked)
	if checked < 50 {
		t.Errorf("only %d properties were looked at", checked)
	}
}

func propertiesOf(t *testing.T, s string) (kind string, names []string) {
	t.Helper()
	if strings.HasPrefix(s, "{") {
		var o map[string]any
		if err := json.Unmarshal([]byte(s), &o); err != nil {
			t.Fatal(err)
		}
		for k, v := range o {
			if k == "qom-type" {
				kind, _ = v.(string)
				continue
			}
			names = append(names, k)
		}
		return kind, names
	}
	kind, rest, _ := strings.Cut(s, ",")
	for kv := range strings.SplitSeq(rest, ",") {
		k, _, _ := strings.Cut(kv, "=")
		names = append(names, k)
	}
	return kind, names
}
