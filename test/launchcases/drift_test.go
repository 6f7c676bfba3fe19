package launchcases

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"

	apiinitdata "github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/host/vmm"
	"github.com/cofferproject/coffer/owner/measure"
)

// paths has the files of a spec under their own names, so that a command line says
// which file is in which place.
func paths(t *testing.T, s *launch.Spec) vmm.Paths {
	t.Helper()
	bind, err := vmm.Bind(s)
	if err != nil {
		t.Fatal(err)
	}
	p := vmm.Paths{
		Kernel: s.Kernel.Path, Initrd: s.Initrd.Path, Console: 11, QMP: 10, Channel: 12, KVM: 14,
		Hardware: vmm.HardwarePaths{Firmware: s.TEEFirmware.Path, SEV: "/dev/fd/20", Bind: bind, QuoteSocket: "/run/quotes"},
	}
	if s.TEE.LoadsImage() {
		p.Kernel = s.Image.Path
	}
	if s.Initdata != nil {
		p.Initdata = 9
	}
	for i := range s.HostDevices {
		p.Hardware.IOMMU = 23
		p.Hardware.Devices, p.Hardware.DevicesMiB = append(p.Hardware.Devices, 24+i), append(p.Hardware.DevicesMiB, 128<<10)
	}
	if s.SNP != nil && s.SNP.DHCert != nil {
		p.Hardware.DHCert, p.Hardware.Session = "/dev/fd/21", "/dev/fd/22"
	}
	return p
}

var host = vmm.Machine{QEMUMajor: 10, KVM: true, Host: vmm.HostCPU{CBit: 51, Reduced: 5, PhysBits: 52}}

// line is a command line, read back.
type line struct {
	options map[string]string // those that come once
	guard   map[string]string // properties of the object that stands for the TEE
	bind    []byte
	devices int // of the host, each below a port of its own
}

func read(t *testing.T, args []string) line {
	t.Helper()
	l := line{options: map[string]string{}}
	for i := 0; i+1 < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") {
			continue
		}
		v := args[i+1]
		l.options[args[i]] = v
		if args[i] == "-device" && strings.HasPrefix(v, "vfio-pci,") && strings.Contains(v, fmt.Sprintf(",bus=port%d,", l.devices)) {
			l.devices++
		}
		if args[i] == "-object" && (strings.Contains(v, "-guest,") || strings.HasPrefix(v, "{")) {
			l.guard = properties(t, v)
		}
	}
	for _, name := range []string{"host-data", "mrconfigid", "personalization-value"} {
		if v := l.guard[name]; v != "" {
			b, err := base64.StdEncoding.DecodeString(v)
			if err != nil {
				t.Fatal(err)
			}
			l.bind = b
		}
	}
	return l
}

func properties(t *testing.T, s string) map[string]string {
	t.Helper()
	out := map[string]string{}
	if strings.HasPrefix(s, "{") {
		var o map[string]any
		if err := json.Unmarshal([]byte(s), &o); err != nil {
			t.Fatal(err)
		}
		for k, v := range o {
			if text, ok := v.(string); ok {
				out[k] = text
			}
		}
		return out
	}
	kind, rest, _ := strings.Cut(s, ",")
	out["qom-type"] = kind
	for kv := range strings.SplitSeq(rest, ",") {
		k, v, _ := strings.Cut(kv, "=")
		out[k] = v
	}
	return out
}

// spec says what the command line launches.
func (l line) spec(t *testing.T) *launch.Spec {
	t.Helper()
	o := l.options
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	s := &launch.Spec{
		VCPUs: number(o["-smp"]), MemoryMiB: number(strings.TrimSuffix(o["-m"], "M")), Cmdline: o["-append"],
		TEEFirmware: launch.File{Path: o["-bios"]}, Kernel: launch.File{Path: o["-kernel"]}, Initrd: launch.File{Path: o["-initrd"]},
	}
	switch l.guard["qom-type"] {
	case "sev-snp-guest":
		s.TEE = launch.SNP
	case "sev-guest":
		s.TEE = launch.SEV
		if policy, err := strconv.ParseUint(l.guard["policy"], 0, 64); err != nil || policy&4 != 0 {
			s.TEE = launch.SEVES
		}
	case "tdx-guest":
		s.TEE = launch.TDX
	case "rme-guest":
		s.TEE = launch.CCA
	case "s390-pv-guest":
		s.TEE, s.Image, s.Kernel = launch.SE, s.Kernel, launch.File{}
	}
	if s.TEE.SEVFamily() {
		s.CPUModel, _, _ = strings.Cut(o["-cpu"], ",")
		if l.guard["kernel-hashes"] != "on" {
			t.Error("the kernel would not be measured")
		}
	}
	return s
}

// TestNoDrift measures what each command line says and what its spec says.
func TestNoDrift(t *testing.T) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			s := c.Write(t)
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
			l := read(t, vmm.CommandLine(&platform.Platform{}, host, s, paths(t, s)))
			if !strings.Contains(l.options["-machine"], "confidential-guest-support=tee") || l.guard["id"] != "tee" {
				t.Fatal("the machine is not under its TEE")
			}
			got := l.spec(t)
			want := *s
			want.Initdata, want.HostDevices, want.SNP = nil, nil, nil
			if want.TEE.SEVFamily() && want.CPUModel == "" {
				want.CPUModel = want.TEE.DefaultCPUModel()
			}
			if !reflect.DeepEqual(got, &want) {
				t.Errorf("the command line launches\n%+v, the spec says\n%+v", got, &want)
			}
			if l.devices != len(s.HostDevices) {
				t.Errorf("%d host devices, the spec has %d", l.devices, len(s.HostDevices))
			}
			checkBind(t, s, l.bind)
			if !s.TEE.SEVFamily() {
				return // what the others measure needs a real kernel: tee/*/measure
			}
			fromLine, err := measure.Launch(got)
			if err != nil {
				t.Fatal(err)
			}
			fromSpec, err := measure.Launch(s)
			if err != nil {
				t.Fatal(err)
			}
			if fromLine.Rows[0] != fromSpec.Rows[0] {
				t.Errorf("the command line measures %v, the spec %v", fromLine.Rows[0], fromSpec.Rows[0])
			}
			if fromLine.Rows[0].Value != c.Digest {
				t.Errorf("launch digest %s, the table says %s", fromLine.Rows[0].Value, c.Digest)
			}
			for _, r := range fromSpec.Rows[1:] {
				if r.Field == "init_data" && r.Value != hex.EncodeToString(l.bind) {
					t.Errorf("the command line binds %x, expected is %s", l.bind, r.Value)
				}
			}
		})
	}
}

// checkBind compares what is bound with the digest of the document.
func checkBind(t *testing.T, s *launch.Spec, got []byte) {
	t.Helper()
	if s.Initdata == nil {
		if got != nil {
			t.Errorf("%x is bound, without initdata", got)
		}
		return
	}
	alg, err := apiinitdata.AlgorithmFor(s.TEE.Wire())
	if err != nil {
		t.Fatal(err)
	}
	sum, err := apiinitdata.Digest(alg, s.Initdata)
	if err != nil {
		t.Fatal(err)
	}
	if want := apiinitdata.Fit(sum, s.TEE.BindSize()); string(got) != string(want) {
		t.Errorf("%x is bound, the digest of initdata is %x", got, want)
	}
}

// TestReaderSeesDrift bends command lines and demands that TestNoDrift's reader
// notices: it must be able to fail.
func TestReaderSeesDrift(t *testing.T) {
	c := Cases()[0]
	s := c.Write(t)
	args := vmm.CommandLine(&platform.Platform{}, host, s, paths(t, s))
	base := read(t, args).spec(t)
	for _, bend := range [][2]string{{"-smp", "3"}, {"-append", "x"}, {"-cpu", "EPYC-Milan,pmu=off"}, {"-kernel", "/other"}, {"-bios", "/other"}} {
		bent := append([]string{}, args...)
		for i := range bent {
			if bent[i] == bend[0] {
				bent[i+1] = bend[1]
			}
		}
		if reflect.DeepEqual(read(t, bent).spec(t), base) {
			t.Errorf("%v is not seen", bend)
		}
	}
}
