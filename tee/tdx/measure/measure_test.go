package measure

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/internal/uefi"
	"github.com/cofferproject/coffer/tee/tdx/tdxtest"
	"github.com/cofferproject/coffer/test/vectors"
)

// hardwareLog is an event log of a TD that somebody else booted.
func hardwareLog(t testing.TB, name string) *eventlog.Log {
	t.Helper()
	path := filepath.Join(vectors.Dir(t, "eventlog"), name)
	b, err := os.ReadFile(path)
	if err != nil {
		z, err := os.Open(path + ".gz")
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		r, err := gzip.NewReader(z)
		if err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(io.LimitReader(r, eventlog.MaxCCSize)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := eventlog.ParseCC(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func digest(t testing.TB, e *eventlog.Event) Digest {
	t.Helper()
	s, ok := e.Sum(eventlog.SHA384)
	if !ok {
		t.Fatal("no SHA-384 digest")
	}
	return Digest(s)
}

// Two TDs that others booted with 2 and with 10 GiB measured the hand-off blocks
// that we compute for these sizes and this firmware's layout.
func TestHandOffBlocksOfHardware(t *testing.T) {
	ss, err := sections(testFirmware(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, mib := range map[string]int{"CCEL_data_ovmf": 2048, "CCEL_data_grub": 10240} {
		b, err := tdHOB(mib, ss)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := Digest(sha512.Sum384(b)), digest(t, &hardwareLog(t, name).Events[0]); got != want {
			t.Errorf("%s: %d MiB give %s, the TD measured %s", name, mib, got, want)
		}
	}
}

// Every event of the same meaning in a hardware log has the digest that we give.
func TestConstantEventsOfHardware(t *testing.T) {
	fw := openEmpty(t)
	r := compute(t, spec(), fw, tdxtest.Kernel("", 0), []byte("initrd"))
	ours := map[string]Digest{}
	for _, e := range r.Events {
		ours[e.What] = e.Digest
	}
	ours["variable BootOrder"] = sha512.Sum384([]byte{0, 0})
	for name, n := range map[string]int{"CCEL_data_ovmf": 10, "CCEL_AAEL_alibabacloud": 10} {
		found := 0
		l := hardwareLog(t, name)
		for i := range l.Events {
			e := &l.Events[i]
			what := e.Text()
			switch e.Type {
			case refvalue.Separator:
				what = "separator"
			case refvalue.EFIVariableDriverConfig:
				if what = "variable " + what; name == "CCEL_data_ovmf" && what == "variable SecureBoot" {
					continue // its build has no secure boot
				}
			case refvalue.EFIVariableBoot:
				if what = "variable " + what; name != "CCEL_data_ovmf" || what != "variable BootOrder" {
					continue // other entries
				}
			case refvalue.EFIAction:
			default:
				continue
			}
			want, ok := ours[what]
			if !ok {
				t.Errorf("%s: %q is not among our events", name, what)
			} else if got := digest(t, e); got != want {
				t.Errorf("%s: %q has %s, ours %s", name, what, got, want)
			}
			found++
		}
		if found < n {
			t.Errorf("%s: only %d events compared, want %d", name, found, n)
		}
	}
}

// A figure that others published for EDK2 2025.11 and a kernel that is handed
// over directly.
func TestPublishedCommandLineDigest(t *testing.T) {
	s := spec()
	s.Cmdline = "root=LABEL=cloudimg-rootfs ro console=ttyS0"
	r := compute(t, s, openEmpty(t), tdxtest.Kernel("", 0), []byte("initrd"))
	const want = "b8c85d40a1d555a451571e24d7d7c4c331bc15721d6e4b2a5cb5093214c44174822a0916aa4d622d4309644de99cd59c"
	for _, e := range r.Events {
		if e.What == WhatCmdline && e.Digest.String() != want {
			t.Errorf("%s, want %s", e.Digest, want)
		}
	}
	// The same source's initrd digest, and what both leave in RTMR 2.
	var initrd Digest
	if err := initrd.UnmarshalText([]byte("88de90bedcc560064688c74ccd6609a25ed9d48b0a0e13d8b2a558212724d8755b2c8114dcf04b8d51ea4cf7782e3091")); err != nil {
		t.Fatal(err)
	}
	var l log
	l.data(2, refvalue.EventTag, uefi.UTF16Z("initrd=initrd "+s.Cmdline), "")
	l.add(2, refvalue.EventTag, initrd, "")
	if got := l.replay(2).String(); got != "972547466cb6bcb8a23cd479e9258c3affbbc4f0ba2805d732477200d0dff8432447c7a775e70453cdb51f018a306ece" {
		t.Errorf("RTMR 2 is %s", got)
	}
}

func spec() *launch.Spec {
	return &launch.Spec{TEE: launch.TDXSim, Kernel: launch.File{Path: "k"}, Cmdline: launch.ConstantCmdline, VCPUs: 2, MemoryMiB: 1024}
}

var opened *Firmware // unpacking takes a while

func openEmpty(t testing.TB) *Firmware {
	t.Helper()
	if opened == nil {
		b, err := WithoutVariables(testFirmware(t))
		if err != nil {
			t.Fatal(err)
		}
		if opened, err = OpenFirmware(b); err != nil {
			t.Fatal(err)
		}
	}
	return opened
}

func compute(t testing.TB, s *launch.Spec, fw *Firmware, kernel, initrd []byte) *Result {
	t.Helper()
	r, err := Compute(s, fw, kernel, initrd, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// asLog gives the log that a TD which measured r would have.
func asLog(t testing.TB, r *Result) *eventlog.Log {
	t.Helper()
	b := eventlog.SpecHeader(eventlog.SHA384)
	for _, e := range r.Events {
		ev := eventlog.Event{Register: uint32(e.Register) + 1, Type: e.Type, Data: []byte(e.What), Digests: []eventlog.Digest{{Algorithm: eventlog.SHA384, Sum: e.Digest[:]}}}
		b = ev.Append(b)
	}
	l, err := eventlog.ParseCC(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Each input changes exactly the one event that is named after it.
func TestEachInputHasItsEvent(t *testing.T) {
	fw, kernel, initrd := openEmpty(t), tdxtest.Kernel("one", 0), []byte("initrd one")
	base := compute(t, spec(), fw, kernel, initrd)
	if d := base.Compare(asLog(t, base)); len(d) > 0 {
		t.Fatalf("differs from itself: %+v", d)
	}
	for what, c := range map[string]struct {
		mutate         func(s *launch.Spec)
		kernel, initrd []byte
		register       int
	}{
		WhatMemory:  {func(s *launch.Spec) { s.MemoryMiB = 2048 }, kernel, initrd, 0},
		WhatVCPUs:   {func(s *launch.Spec) { s.VCPUs = 3 }, kernel, initrd, 0},
		WhatCmdline: {func(s *launch.Spec) { s.Cmdline += " x" }, kernel, initrd, 2},
		WhatKernel:  {func(*launch.Spec) {}, tdxtest.Kernel("two", 0), initrd, 1},
		WhatInitrd:  {func(*launch.Spec) {}, kernel, []byte("initrd two"), 2},
	} {
		s := spec()
		c.mutate(s)
		r := compute(t, s, fw, c.kernel, c.initrd)
		d := base.Compare(asLog(t, r))
		if len(d) != 1 || d[0].What != what || d[0].Register != c.register {
			t.Errorf("%s: differences %+v", what, d)
		}
		was := []Digest{*base.RTMR0, base.RTMR1, base.RTMR2}
		for i, v := range []Digest{*r.RTMR0, r.RTMR1, r.RTMR2} {
			if changed := v != was[i]; changed != (i == c.register) {
				t.Errorf("%s: RTMR %d changed: %v", what, i, changed)
			}
		}
		if r.MRTD != base.MRTD {
			t.Errorf("%s: MRTD changed", what)
		}
	}
	s := spec()
	s.Initdata = []byte("some document")
	r := compute(t, s, fw, kernel, initrd)
	if r.MRConfigID != Digest(sha512.Sum384(s.Initdata)) || *r.RTMR0 != *base.RTMR0 {
		t.Errorf("initdata: MRCONFIGID %s", r.MRConfigID)
	}
	// More and fewer events are differences too.
	l := asLog(t, base)
	l.Events = l.Events[:len(l.Events)-1]
	if d := base.Compare(l); len(d) != 1 || d[0].Measured != "" {
		t.Errorf("an event less: %+v", d)
	}
	l = asLog(t, base)
	l.Events = append(l.Events, l.Events[0])
	if d := base.Compare(l); len(d) != 1 || d[0].Expected != "" {
		t.Errorf("an event more: %+v", d)
	}
}

func TestNoInitrd(t *testing.T) {
	r := compute(t, spec(), openEmpty(t), tdxtest.Kernel("", 0), nil)
	var l log
	l.data(2, refvalue.EventTag, uefi.UTF16Z(launch.ConstantCmdline), "")
	if r.RTMR2 != l.replay(2) {
		t.Errorf("RTMR 2 is %s, want only the plain command line", r.RTMR2)
	}
}

// Hardware's RTMR 0 needs what a reference boot showed; without, it is missing
// and the rest is there.
func TestHardwareNeedsAReferenceBoot(t *testing.T) {
	s := spec()
	s.TEE = launch.TDX
	kernel, initrd := tdxtest.Kernel("", 0), []byte("initrd")
	fw := openEmpty(t)
	r := compute(t, s, fw, kernel, initrd)
	if r.RTMR0 != nil || len(r.Missing) == 0 || r.RTMR1 == (Digest{}) {
		t.Errorf("RTMR 0 %v, missing %v", r.RTMR0, r.Missing)
	}
	for _, e := range r.Events {
		if e.Register == 0 {
			t.Errorf("%q is of a register that is missing", e.What)
		}
	}
	p, err := PlatformFromLog(hardwareLog(t, "CCEL_data_ovmf"))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.ACPI) != 3 || len(p.Boot) != 2 {
		t.Fatalf("platform %+v", p)
	}
	if r, err = Compute(s, fw, kernel, initrd, p); err != nil || r.RTMR0 != nil || !strings.Contains(r.Missing[0], "SMBIOS") {
		t.Errorf("without SMBIOS: %v, %v", r.Missing, err)
	}
	p.SMBIOS = []Measured{measured("SMBIOS", []byte("tables"))}
	if r, err = Compute(s, fw, kernel, initrd, p); err != nil || r.RTMR0 == nil || r.Simulated {
		t.Fatalf("with all: %v, %v", r.Missing, err)
	}
	// A log of that boot gives the same platform again.
	if d := r.Compare(asLog(t, r)); len(d) > 0 {
		t.Errorf("%+v", d)
	}
	// With the vendor's keys the event of the kernel's signer is missing.
	keys, err := OpenFirmware(testFirmware(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, on := keys.SecureBoot(); !on {
		t.Error("secure boot is off")
	}
	if r, err = Compute(s, keys, kernel, initrd, p); err != nil || r.RTMR0 != nil {
		t.Errorf("with secure boot: %v, %v", r.Missing, err)
	}
	// The platform of simulated hardware is not hardware's, nor the other way.
	sim, err := SimulatedPlatform(fw, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Compute(s, fw, kernel, initrd, sim); err == nil {
		t.Error("hardware with a simulated platform")
	}
	if _, err := Compute(spec(), fw, kernel, initrd, p); err == nil {
		t.Error("simulated hardware with a real platform")
	}
}

func TestACPIFromFWCfg(t *testing.T) {
	script := make([]byte, 3*128)
	for i, name := range []string{"etc/acpi/rsdp", "", "etc/acpi/tables"} {
		e := script[128*i:]
		binary.LittleEndian.PutUint32(e, 1)
		if name == "" {
			binary.LittleEndian.PutUint32(e, 2) // a pointer
		}
		copy(e[4:], name)
	}
	files := map[string][]byte{"etc/table-loader": script, "etc/acpi/rsdp": {1}, "etc/acpi/tables": {2}}
	got, err := ACPIFromFWCfg(files)
	if err != nil || len(got) != 3 || got[1] != measured("etc/acpi/rsdp", []byte{1}) || got[2].What != "etc/acpi/tables" {
		t.Errorf("%+v, %v", got, err)
	}
	delete(files, "etc/acpi/rsdp")
	if _, err := ACPIFromFWCfg(files); err == nil {
		t.Error("a file that was not given")
	}
	if _, err := ACPIFromFWCfg(map[string][]byte{"etc/table-loader": script[:100]}); err == nil {
		t.Error("a cut script")
	}
}

func TestMADT(t *testing.T) {
	one, err := madt(1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := madt(64)
	if err != nil {
		t.Fatal(err)
	}
	if len(b)-len(one) != 63*8 || int(binary.LittleEndian.Uint32(b[4:])) != len(b) || string(b[:4]) != "APIC" {
		t.Errorf("%x", b)
	}
	for _, n := range []int{0, 65, -1} {
		if _, err := madt(n); err == nil {
			t.Errorf("%d vCPUs", n)
		}
	}
}

func TestExpectedReadsTheFiles(t *testing.T) {
	dir := t.TempDir()
	fw, err := WithoutVariables(testFirmware(t))
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, b []byte) launch.File {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return launch.File{Path: p}
	}
	s := spec()
	s.Firmware = file("ovmf", []byte("not a TD's"))
	s.TEEFirmware, s.Kernel, s.Initrd = file("fw", fw), file("k", tdxtest.Kernel("", 0)), file("i", []byte("initrd"))
	r, err := Expected(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := compute(t, s, openEmpty(t), tdxtest.Kernel("", 0), []byte("initrd"))
	a, _ := json.Marshal(r)
	b, _ := json.Marshal(want)
	if !bytes.Equal(a, b) || !bytes.Contains(a, []byte(`"mr_td":"a7a1f751`)) {
		t.Errorf("%s\nwant %s", a, b)
	}
	var again Result
	if err := json.Unmarshal(a, &again); err != nil || again.MRTD != r.MRTD {
		t.Errorf("JSON: %v", err)
	}
	s.Kernel.SHA256 = strings.Repeat("0", 64)
	if _, err := Expected(s, nil); err == nil {
		t.Error("a kernel with another digest is measured")
	}
	s.Kernel.SHA256, s.TEE = "", launch.SNP
	if _, err := Expected(s, nil); err == nil {
		t.Error("SNP is measured as TDX")
	}
}

func TestUnknownFirmware(t *testing.T) {
	dir, vs := mrtdVectors(t)
	for _, v := range vs[1:] {
		t.Run(v.Firmware, func(t *testing.T) {
			if _, err := OpenFirmware(firmware(t, dir, v.Firmware, v.SHA256)); !errors.Is(err, ErrUnknownFirmware) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestBentVariablesNeverPanic(t *testing.T) {
	cfv := testFirmware(t)[:0x84000]
	vs, err := variables(cfv)
	if err != nil || len(vs) != 4 {
		t.Fatalf("%d variables: %v", len(vs), err)
	}
	for off := 0; off < 0x8700; off += 3 {
		cfv[off] ^= 0xff
		if vs, err := variables(cfv); err == nil {
			secureBoot(vs)
		}
		cfv[off] ^= 0xff
	}
}

func FuzzVariables(f *testing.F) {
	b := make([]byte, 0x200)
	copy(b[40:], "_FVH")
	b[48] = 72
	copy(b[72:], "\x78\x2c\xf3\xaa\x7b\x94\x9a\x43\xa1\x80\x2e\x14\x4e\xc3\x77\x92") // authenticated variables
	b[72+17] = 1
	v := b[100:]
	binary.LittleEndian.PutUint16(v, 0x55aa)
	v[2], v[36], v[40] = 0x3f, 6, 3
	copy(v[44:], uefi.GlobalVariable[:])
	copy(v[60:], "P\x00K\x00\x00\x00abc")
	if vs, err := variables(b); err != nil || len(vs) != 1 || vs[0].Name != "PK" || string(vs[0].Value) != "abc" {
		f.Fatalf("the seed: %+v, %v", vs, err)
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		vs, err := variables(b)
		if err != nil {
			return
		}
		m, _ := secureBoot(vs)
		for i := range m {
			m[i].Data()
		}
	})
}

func BenchmarkCompute(b *testing.B) {
	fw, kernel, initrd := openEmpty(b), tdxtest.Kernel("", 0), make([]byte, 8<<20)
	b.ReportAllocs()
	for b.Loop() {
		compute(b, spec(), fw, kernel, initrd)
	}
}

func BenchmarkOpenFirmware(b *testing.B) {
	fw := testFirmware(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := OpenFirmware(fw); err != nil {
			b.Fatal(err)
		}
	}
}
