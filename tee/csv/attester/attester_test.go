package attester

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/csv"
	"github.com/cofferproject/coffer/tee/csv/csvtest"
	"github.com/cofferproject/coffer/tee/csv/verifier"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/verify"
)

// A case of the published library (csv-rs): SM3 of data and nonce.
func TestRequest(t *testing.T) {
	data := [64]byte{
		103, 198, 105, 115, 81, 255, 74, 236, 41, 205, 186, 171, 242, 251, 227, 70, 124, 194, 84, 248, 27, 232, 231, 141, 118, 90, 46, 99, 51, 159, 201, 154,
		102, 50, 13, 183, 49, 88, 163, 90, 37, 93, 5, 23, 88, 233, 94, 212, 171, 178, 205, 198, 155, 180, 84, 17, 14, 130, 116, 65, 33, 61, 220, 135,
	}
	nonce := [16]byte{112, 233, 62, 161, 65, 225, 252, 103, 62, 1, 126, 151, 234, 220, 107, 150}
	b := Request(data, nonce)
	if len(b) != 132 || hex.EncodeToString(b[80:112]) != "134c086221f6f79b1c15f5b9764aa280520fa0e9d4826ab1590677f382150399" {
		t.Errorf("%x", b)
	}
}

// fake is a secure processor with keys of a test's.
type fake struct {
	w       *csvtest.World
	rtmr    [csv.RTMRs][32]byte
	replay  []byte // an old report
	onCall  func()
	fwError uint32
}

func (f *fake) call(_ uintptr, buf []byte) error {
	if f.onCall != nil {
		f.onCall()
	}
	if f.replay != nil {
		copy(buf, f.replay)
		return nil
	}
	body := csvtest.Good()
	body.ReportData = [64]byte(buf)
	body.Nonce = [16]byte(buf[64:])
	for i := range body.RTMR {
		body.RTMR[i] = f.rtmr[i+1]
	}
	e, err := f.w.V2(body, nil)
	if err != nil {
		return err
	}
	copy(buf, e.Report[:])
	return nil
}

func (f *fake) register(_ uintptr, command uint16, buf []byte) (uint32, error) {
	switch command {
	case rtmrExtend:
		i := buf[0]
		f.rtmr[i] = [32]byte(eventlog.SM3.Hash(append(f.rtmr[i][:], buf[4:]...)))
	case rtmrRead:
		for i := range f.rtmr {
			if buf[0] == 1<<i {
				copy(buf[4:], f.rtmr[i][:])
			}
		}
	}
	return f.fwError, nil
}

func attesterOf(t *testing.T, f *fake, entries func() ([]byte, error)) *Attester {
	t.Helper()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{
		Device:  &Kernel{f: file, report: f.call, rtmr: f.register},
		Entries: entries, Firmware: func() ([]byte, error) { return aael.ReadCCEL(filepath.Join(t.TempDir(), "none")) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func newFake(t *testing.T) *fake {
	t.Helper()
	w, err := csvtest.New()
	if err != nil {
		t.Fatal(err)
	}
	return &fake{w: w}
}

// What the guest records, the verifier replays.
func TestEvidenceWithEventLog(t *testing.T) {
	ctx, f := context.Background(), newFake(t)
	var log *aael.Log
	a := attesterOf(t, f, func() ([]byte, error) { return log.Bytes() })
	log, err := aael.Open(ctx, t.TempDir(), aael.Options{Extender: a})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Extend(ctx, aael.DefaultPCR, aael.Event{Domain: "coffer", Operation: "test", Content: "one"}); err != nil {
		t.Fatal(err)
	}
	b, err := a.Evidence(ctx, []byte{1, 2, 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, err := verifier.New(verifier.Config{
		Config: verify.Config{
			Kind: verify.Production, AllowUnproven: []string{verifier.UnprovenChain, verifier.UnprovenV2},
			Collateral: collateral.NewSet(&collateral.Item{Origin: verifier.KeyService + csvtest.Serial, Body: f.w.File(), Fetched: time.Now()}),
		},
		InsecureTestRoot: f.w.Root(),
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := v.Verify(&verify.Input{Evidence: b, ReportData: append([]byte{1, 2, 3}, make([]byte, 61)...), Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r[0].Claims["uefi_event_logs"].([]eventlog.Description)); n != 1 {
		t.Errorf("%d events", n)
	}
}

func TestReportMustBeOurs(t *testing.T) {
	f := newFake(t)
	e, err := f.w.V2(csvtest.Good(), nil)
	if err != nil {
		t.Fatal(err)
	}
	f.replay = e.Report[:]
	if _, err := attesterOf(t, f, nil).Evidence(context.Background(), make([]byte, 64), nil); err == nil {
		t.Error("a report over another nonce is handed out")
	}
}

func TestLogThatGrows(t *testing.T) {
	f, n := newFake(t), 0
	f.onCall = func() { n++ }
	a := attesterOf(t, f, func() ([]byte, error) { return bytes.Repeat([]byte{1}, n), nil })
	if _, err := a.Evidence(context.Background(), nil, nil); err == nil || n != 3 {
		t.Errorf("%d reports, %v", n, err)
	}
}

func TestRegisters(t *testing.T) {
	ctx, f := context.Background(), newFake(t)
	a := attesterOf(t, f, nil)
	for pcr, want := range map[int]int{1: 1, 7: 1, 2: 2, 6: 2, 8: 3, 15: 3, 16: 4, 23: 4, 0: -1, 24: -1, -1: -1} {
		got, err := a.Register(pcr)
		if want < 0 && !errors.Is(err, attest.ErrUnsupported) || want >= 0 && (err != nil || got != want) {
			t.Errorf("PCR %d: %d, %v", pcr, got, err)
		}
	}
	if err := a.Extend(ctx, 0, make([]byte, 32)); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("the launch digest is extended: %v", err)
	}
	if err := a.Extend(ctx, 2, make([]byte, 31)); err == nil {
		t.Error("a short digest is taken")
	}
	if _, err := a.Read(ctx, 5); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("register 5: %v", err)
	}
	f.fwError = 1
	if err := a.Extend(ctx, 2, make([]byte, 32)); err == nil {
		t.Error("the firmware's error is dropped")
	}
	if _, err := OpenKernel(filepath.Join(t.TempDir(), "none")); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("no device: %v", err)
	}
}
