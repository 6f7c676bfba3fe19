package sim

import (
	"bytes"
	"context"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/eventlog"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/tdx"
	"github.com/cofferproject/coffer/tee/tdx/attester"
	"github.com/cofferproject/coffer/tee/tdx/measure"
	"github.com/cofferproject/coffer/tee/tdx/tdxtest"
	"github.com/cofferproject/coffer/tee/tdx/verifier"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

var (
	day   = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	once  sync.Once
	image []byte
	keys  *measure.Firmware // as the distribution ships it
	plain *measure.Firmware // without the vendor's keys
)

func firmware(t testing.TB) (withKeys, without *measure.Firmware) {
	t.Helper()
	path := filepath.Join(vectors.Dir(t, "measure"), "OVMF.inteltdx.ms.fd.xz")
	once.Do(func() {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := xz.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if image, err = io.ReadAll(io.LimitReader(r, measure.MaxFirmware)); err != nil {
			t.Fatal(err)
		}
		if keys, err = measure.OpenFirmware(image); err != nil {
			t.Fatal(err)
		}
		empty, err := measure.WithoutVariables(image)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err = measure.OpenFirmware(empty); err != nil {
			t.Fatal(err)
		}
	})
	return keys, plain
}

func platform(t testing.TB) *intelsim.Platform {
	t.Helper()
	p, err := intelsim.New(intelsim.Options{Now: day})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func inputs(t testing.TB) Inputs {
	_, fw := firmware(t)
	return Inputs{
		Kernel: tdxtest.Kernel("kernel", 16), Initrd: []byte("an initrd"), Cmdline: launch.ConstantCmdline, MemoryMiB: 1024, VCPUs: 2,
		Firmware: fw,
	}
}

func machine(t testing.TB, p *intelsim.Platform, in Inputs) *Machine {
	t.Helper()
	m, err := New(p, in)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// expected is what `coffer measure` says of the same inputs.
func expected(t testing.TB, in Inputs, doc []byte) *measure.Result {
	t.Helper()
	s := &launch.Spec{TEE: launch.TDXSim, Cmdline: in.Cmdline, MemoryMiB: in.MemoryMiB, VCPUs: in.VCPUs, Initdata: doc}
	r, err := measure.Compute(s, in.Firmware, in.Kernel, in.Initrd, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func compare(t testing.TB, m *Machine, r *measure.Result) []measure.Difference {
	t.Helper()
	l, err := eventlog.ParseCC(m.CCEL())
	if err != nil {
		t.Fatal(err)
	}
	var quoted [eventlog.RTMRs][]byte
	for i := range quoted {
		v, err := m.RTMR(i)
		if err != nil {
			t.Fatal(err)
		}
		quoted[i] = v[:]
	}
	if err := l.CheckRTMRs(eventlog.SHA384, quoted); err != nil {
		t.Error(err)
	}
	return r.Compare(l)
}

// The two implementations agree on every size, with and without initrd and
// keys, and on a real kernel where there is one.
func TestSimulatorAgreesWithMeasure(t *testing.T) {
	p := platform(t)
	withKeys, without := firmware(t)
	kernels := [][]byte{tdxtest.Kernel("kernel", 0), tdxtest.Kernel("another kernel", 4096)}
	if m, _ := filepath.Glob(filepath.Join(os.Getenv("HOME"), ".cache/coffer/packages/linux-image*/boot/vmlinuz*")); len(m) > 0 {
		b, err := os.ReadFile(m[0])
		if err != nil {
			t.Fatal(err)
		}
		kernels = append(kernels, b)
	} else {
		t.Log("no kernel of the distribution in the cache")
	}
	for _, fw := range []*measure.Firmware{withKeys, without} {
		for i, memory := range launch.MemoryLadderMiB {
			in := Inputs{
				Kernel: kernels[i%len(kernels)], Initrd: bytes.Repeat([]byte{byte(i)}, i), Cmdline: launch.ConstantCmdline, MemoryMiB: memory, VCPUs: 1 + 9*i%64,
				Firmware: fw,
			}
			doc := []byte("document")
			sum := sha512.Sum384(doc)
			in.InitdataDigest = sum[:]
			m, r := machine(t, p, in), expected(t, in, doc)
			if d := compare(t, m, r); len(d) > 0 {
				t.Errorf("%d MiB, %d vCPUs: %+v", in.MemoryMiB, in.VCPUs, d)
			}
			got := [5]Register{m.MRTD(), m.MRConfigID()}
			for j := range 3 {
				var err error
				if got[2+j], err = m.RTMR(j); err != nil {
					t.Fatal(err)
				}
			}
			if want := [5]Register{Register(r.MRTD), Register(r.MRConfigID), Register(*r.RTMR0), Register(r.RTMR1), Register(r.RTMR2)}; got != want {
				t.Errorf("%d MiB, %d vCPUs: %x, want %x", in.MemoryMiB, in.VCPUs, got, want)
			}
		}
	}
}

// The table of interrupt controllers as QEMU 10.0 gives it through fw_cfg, for
// three vCPUs.
func TestTableOfQEMU(t *testing.T) {
	const want = "41504943880000000300424f4348532042585043202020200100000042585043010000000000e0fe01000000000800000100000000080101010000000008020201000000" +
		"010c00000000c0fe00000000020a0000020000000000020a0005050000000d00020a0009090000000d00020a000a0a0000000d00020a000b0b0000000d000406ff000001"
	b, err := apicTable(3)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Policies find the kernel and the command line by what a hardware log shows.
func TestEventsLookLikeHardware(t *testing.T) {
	l, err := eventlog.ParseCC(machine(t, platform(t), inputs(t)).CCEL())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]eventlog.Description{}
	for _, d := range l.Describe() {
		if s, ok := d.Details["string"].(string); ok {
			got[s] = d
		}
		if p, ok := d.Details["device_paths"].([]string); ok {
			got[p[len(p)-1]] = d
			if len(p) != 2 || p[0] != "VenMedia(1428F772-B64A-441E-B8C3-9EBDD7F893C7,)" {
				t.Errorf("device path %q", p)
			}
		}
	}
	for name, want := range map[string]eventlog.Description{
		"TdxTable": {TypeName: "EV_EFI_HANDOFF_TABLES2", Index: 1},
		"Fv(XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX)": {TypeName: "EV_EFI_PLATFORM_FIRMWARE_BLOB2", Index: 1},
		"ACPI DATA":                 {TypeName: "EV_PLATFORM_CONFIG_FLAGS", Index: 1},
		"File(kernel)":              {TypeName: "EV_EFI_BOOT_SERVICES_APPLICATION", Index: 2},
		"LOADED_IMAGE::LoadOptions": {TypeName: "EV_EVENT_TAG", Index: 3},
		"Linux initrd":              {TypeName: "EV_EVENT_TAG", Index: 3},
	} {
		if d := got[name]; d.TypeName != want.TypeName || d.Index != want.Index {
			t.Errorf("%s: %s in register %d, want %s in %d", name, d.TypeName, d.Index, want.TypeName, want.Index)
		}
	}
}

// Where a machine runs something else than was measured, the difference has
// the input's name.
func TestEachInputIsNamed(t *testing.T) {
	p, in := platform(t), inputs(t)
	r := expected(t, in, nil)
	for what, change := range map[string]func(*Inputs){
		measure.WhatMemory:  func(in *Inputs) { in.MemoryMiB = 768 },
		measure.WhatVCPUs:   func(in *Inputs) { in.VCPUs = 4 },
		measure.WhatKernel:  func(in *Inputs) { in.Kernel = tdxtest.Kernel("kernem", 16) },
		measure.WhatCmdline: func(in *Inputs) { in.Cmdline += " debug" },
		measure.WhatInitrd:  func(in *Inputs) { in.Initrd = []byte("another initrd") },
	} {
		other := in
		change(&other)
		if d := compare(t, machine(t, p, other), r); len(d) != 1 || d[0].What != what {
			t.Errorf("%s: %+v", what, d)
		}
	}
}

func TestBadInputs(t *testing.T) {
	p := platform(t)
	for name, change := range map[string]func(*Inputs){
		"no firmware":      func(in *Inputs) { in.Firmware = nil },
		"no kernel":        func(in *Inputs) { in.Kernel = nil },
		"kernel cut":       func(in *Inputs) { in.Kernel = in.Kernel[:0x700] },
		"no command line":  func(in *Inputs) { in.Cmdline = "" },
		"line not ASCII":   func(in *Inputs) { in.Cmdline = "ü" },
		"no memory":        func(in *Inputs) { in.MemoryMiB = 0 },
		"little memory":    func(in *Inputs) { in.MemoryMiB = 4 },
		"no vCPU":          func(in *Inputs) { in.VCPUs = 0 },
		"too many vCPUs":   func(in *Inputs) { in.VCPUs = 65 },
		"digest of SHA256": func(in *Inputs) { in.InitdataDigest = make([]byte, 32) },
	} {
		in := inputs(t)
		change(&in)
		if _, err := New(p, in); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(nil, inputs(t)); err == nil {
		t.Error("no platform: accepted")
	}
	m := machine(t, p, inputs(t))
	if m.Extend(4, make([]byte, 48)) == nil || m.Extend(-1, make([]byte, 48)) == nil || m.Extend(3, make([]byte, 32)) == nil {
		t.Error("a bad extend is accepted")
	}
	if _, err := m.RTMR(4); err == nil {
		t.Error("RTMR 4")
	}
	if _, _, err := m.Report(t.Context(), make([]byte, 63)); err == nil {
		t.Error("63 bytes of report data")
	}
}

// registers gives a machine's registers to the attester, as the guest's client
// of coffer-simhw does.
type registers struct{ m *Machine }

func (r registers) ConfigID(context.Context) ([]byte, error) {
	v := r.m.MRConfigID()
	return v[:], nil
}

func (r registers) RTMR(_ context.Context, i int) ([]byte, error) {
	v, err := r.m.RTMR(i)
	return v[:], err
}

func (r registers) ExtendRTMR(_ context.Context, i int, d []byte) error { return r.m.Extend(i, d) }

var _ attest.Reporter = (*Machine)(nil)

const document = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n\n[data]\n\"x\" = \"y\"\n"

// The whole way: hardware, the release attester with its event log, the
// verifier.
func TestEvidenceIsVerified(t *testing.T) {
	p, in := platform(t), inputs(t)
	sum := sha512.Sum384([]byte(document))
	in.InitdataDigest = sum[:]
	m := machine(t, p, in)
	at, err := attester.New(attester.Options{
		Reporter: m, Registers: registers{m}, Simulation: m.Note(),
		Firmware: func() ([]byte, error) { return m.CCEL(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	log, err := aael.Open(t.Context(), t.TempDir(), aael.Options{Extender: at, FirstIndex: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	at.Record(log.Bytes)
	event := aael.Event{Domain: "github.com/confidential-containers", Operation: "PullImage", Content: `{"image":"a", "digest":"b"}`}
	if err := log.Extend(t.Context(), aael.DefaultPCR, event); err != nil {
		t.Fatal(err)
	}
	reportData := bytes.Repeat([]byte{7}, 48)
	raw, err := at.Evidence(t.Context(), reportData, nil)
	if err != nil {
		t.Fatal(err)
	}
	items, err := p.Collateral(intelsim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := verifier.New(verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{p.Root()}, Collateral: collateral.NewSet(items...)})
	if err != nil {
		t.Fatal(err)
	}
	good := func() *verify.Input {
		return &verify.Input{Evidence: raw, ReportData: reportData, Initdata: []byte(document), Now: day}
	}
	res, err := v.Verify(good())
	if err != nil {
		t.Fatal(err)
	}
	r := expected(t, in, []byte(document))
	body := claim(t, res[0].Claims, "quote", "body")
	for name, want := range map[string]measure.Digest{"mr_td": r.MRTD, "mr_config_id": r.MRConfigID, "rtmr_0": *r.RTMR0, "rtmr_1": r.RTMR1, "rtmr_2": r.RTMR2} {
		if body[name] != want.String() {
			t.Errorf("claim %s is %v, measured was %s", name, body[name], want)
		}
	}
	if !res[0].Simulated || res[0].SimulationNote != m.Note() || res[0].Initdata == nil {
		t.Errorf("result %+v", res[0])
	}
	for name, c := range map[string]struct {
		change func(in *verify.Input)
		reason denial.Reason
	}{
		"another document": {func(in *verify.Input) { in.Initdata = []byte(document + "\n") }, verify.ReasonInitdataMismatch},
		"no document":      {func(in *verify.Input) { in.Initdata = nil }, verify.ReasonInitdataMissing},
		"another nonce":    {func(in *verify.Input) { in.ReportData = make([]byte, 48) }, verify.ReasonReportData},
		"an old log": {func(in *verify.Input) {
			e, err := tdx.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			e.EventLog = append(m.CCEL()[:0:0], m.CCEL()...) // without the agent's entry
			if in.Evidence, err = e.Encode(); err != nil {
				t.Fatal(err)
			}
		}, verifier.ReasonEventLogMismatch},
	} {
		bad := good()
		c.change(bad)
		_, err := v.Verify(bad)
		if d, ok := errors.AsType[*denial.Denial](err); !ok || d.Reason != c.reason {
			t.Errorf("%s: %v, want %s", name, err, c.reason)
		}
	}
	// Another machine's root is not this one's.
	other, err := verifier.New(verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{platform(t).Root()}, Collateral: collateral.NewSet(items...)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Verify(good()); err == nil {
		t.Error("verified under another machine's root")
	}
}

func claim(t testing.TB, m map[string]any, path ...string) map[string]any {
	t.Helper()
	for _, p := range path {
		next, ok := m[p].(map[string]any)
		if !ok {
			t.Fatalf("claim %s is %T", p, m[p])
		}
		m = next
	}
	return m
}

func BenchmarkQuote(b *testing.B) {
	m := machine(b, platform(b), inputs(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Quote([64]byte{}); err != nil {
			b.Fatal(err)
		}
	}
}
