package attester

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tdx-guest/client/linuxabi"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/tdx"
)

// device plays kernel and hardware.
type device struct {
	p        *sim.Platform
	td       quote.TD
	provider string
	during   func() // runs while the quote is made
}

func (d *device) Provider() string { return d.provider }

func (d *device) Report(_ context.Context, in []byte) ([]byte, []byte, error) {
	if d.during != nil {
		d.during()
	}
	td := d.td
	copy(td.ReportData[:], in)
	raw, err := d.p.QuoteTD(&td, 4)
	return raw, nil, err
}

func (d *device) ConfigID(context.Context) ([]byte, error) { return d.td.MRConfigID[:], nil }

func (d *device) RTMR(_ context.Context, i int) ([]byte, error) { return d.td.RTMR[i][:], nil }

func (d *device) ExtendRTMR(_ context.Context, i int, digest []byte) error {
	d.td.RTMR[i] = sha512.Sum384(append(bytes.Clone(d.td.RTMR[i][:]), digest...))
	return nil
}

func newDevice(t *testing.T) *device {
	t.Helper()
	p, err := sim.New(sim.Options{Now: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	return &device{p: p, td: p.TD(), provider: "tdx_guest"}
}

func none() ([]byte, error) { return nil, nil }

func TestEvidence(t *testing.T) {
	d, ctx := newDevice(t), t.Context()
	d.td.MRConfigID[0] = 7
	var log []byte
	a, err := New(Options{Reporter: d, Registers: d, Firmware: none, Simulation: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	a.Record(func() ([]byte, error) { return log, nil })
	if reg, err := a.InitdataRegister(ctx); err != nil || reg[0] != 7 {
		t.Errorf("register %x, %v", reg, err)
	}
	record := func() {
		t.Helper()
		r, err := a.Register(17)
		if err != nil {
			t.Fatal(err)
		}
		e := eventlog.NewAAEL(uint32(r)+1, "domain operation content", eventlog.SHA384)
		if err := a.Extend(ctx, r, e.Digests[0].Sum); err != nil {
			t.Fatal(err)
		}
		log = e.Append(log)
	}
	record()
	again := true
	d.during = func() {
		if again { // an event while the quote is made: it must be made anew
			again = false
			record()
		}
	}
	b, err := a.Evidence(ctx, []byte{1, 2, 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := tdx.Parse(b)
	if err != nil || e.Simulation != "a test" {
		t.Fatal(err, e)
	}
	q, err := quote.Parse(e.Quote)
	if err != nil || !bytes.Equal(q.ReportData(), append([]byte{1, 2, 3}, make([]byte, 61)...)) {
		t.Fatalf("%v", err)
	}
	l, err := eventlog.ParseCC(e.EventLog)
	if err != nil || len(l.Events) != 2 {
		t.Fatalf("%d events, %v", len(l.Events), err)
	}
	var quoted [4][]byte
	for i := range quoted {
		quoted[i] = q.TD.RTMR[i][:]
	}
	if err := l.CheckRTMRs(eventlog.SHA384, quoted); err != nil {
		t.Error(err)
	}
	if v, err := a.Read(ctx, 3); err != nil || !bytes.Equal(v, quoted[3]) {
		t.Errorf("RTMR 3 is %x, %v", v, err)
	}
	d.during = record
	if _, err := a.Evidence(ctx, nil, nil); err == nil {
		t.Error("a log that grows with every quote: accepted")
	}
}

func TestNoFallback(t *testing.T) {
	d := newDevice(t)
	d.provider = "sev_guest"
	if _, err := New(Options{Reporter: d, Registers: d, Firmware: none}); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("another provider: %v", err)
	}
	d.provider = "tdx_guest"
	a, err := New(Options{Reporter: d, Registers: d, Firmware: none})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Extend(t.Context(), 4, make([]byte, 48)); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("RTMR 4: %v", err)
	}
	if err := a.Extend(t.Context(), 3, make([]byte, 32)); err == nil {
		t.Error("a digest of another size: accepted")
	}
	if _, err := Open(); !errors.Is(err, attest.ErrNotPresent) {
		t.Skipf("this machine has configfs-tsm: %v", err)
	}
}

// The kernel's folder, played by files.
func TestKernelRegisters(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	k := kernel{measurements: dir, device: filepath.Join(dir, "no-device")}
	if _, err := k.ConfigID(ctx); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("no driver: %v", err)
	}
	if err := k.ExtendRTMR(ctx, 2, make([]byte, 48)); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("old kernel: %v", err)
	}
	want := bytes.Repeat([]byte{9}, 48)
	for _, name := range []string{"mrconfigid", "rtmr2:sha384"} {
		if err := os.WriteFile(filepath.Join(dir, name), want, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := k.ConfigID(ctx); err != nil || !bytes.Equal(b, want) {
		t.Errorf("MRCONFIGID %x, %v", b, err)
	}
	digest := bytes.Repeat([]byte{3}, 48)
	if err := k.ExtendRTMR(ctx, 2, digest); err != nil {
		t.Error(err)
	}
	if b, err := k.RTMR(ctx, 2); err != nil || !bytes.Equal(b, digest) {
		t.Errorf("RTMR 2 %x, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mrconfigid"), want[:20], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Attester{o: Options{Registers: k}}).InitdataRegister(ctx); err == nil {
		t.Error("a short register: accepted")
	}
}

// The request's number and layout are those that go-tdx-guest uses.
func TestReportRequest(t *testing.T) {
	if getReport0 != linuxabi.IocTdxGetReport {
		t.Errorf("%#x, want %#x", getReport0, linuxabi.IocTdxGetReport)
	}
}
