// Package attester gets TDX evidence: the quote through the kernel's
// configfs-tsm, run-time registers and MRCONFIGID from the kernel's TDX guest
// driver, the event logs of firmware and guest.
//
// Invariants: it is chosen by the kernel's provider alone and falls back to
// nothing; the log in the evidence is the one that the quoted registers were
// extended with, or there is no evidence; what the kernel cannot do is
// attest.ErrUnsupported.
//
// Trust zone: guest.
package attester

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/attest/configfs"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/tdx"
)

// Registers are the TD's own registers, read without the host.
type Registers interface {
	// ConfigID is MRCONFIGID, 48 bytes.
	ConfigID(ctx context.Context) ([]byte, error)
	// RTMR reads a run-time register, 48 bytes.
	RTMR(ctx context.Context, register int) ([]byte, error)
	// ExtendRTMR extends it with a SHA-384 digest.
	ExtendRTMR(ctx context.Context, register int, digest []byte) error
}

// Options make an Attester.
type Options struct {
	Reporter  attest.Reporter
	Registers Registers
	// Firmware gives the firmware's event log; nil log: there is none.
	Firmware func() ([]byte, error)
	// Simulation is the note of simulated hardware; "" for the kernel's.
	Simulation string
}

// Attester is the attester of TEE "tdx".
type Attester struct {
	o Options
	// entries gives the run-time events (attest.Recorder); nil: none are recorded.
	entries func() ([]byte, error)
}

var (
	_ attest.Attester = (*Attester)(nil)
	_ attest.Bound    = (*Attester)(nil)
	_ attest.Recorder = (*Attester)(nil)
)

// Open makes the attester of this machine; attest.ErrNotPresent if it is no TD.
func Open() (*Attester, error) {
	r, err := configfs.Open(configfs.Dir, configfs.TDX)
	if err != nil {
		return nil, fmt.Errorf("tdx attester: %w", err)
	}
	return New(Options{
		Reporter: r, Registers: kernel{measurements: Measurements, device: Device},
		Firmware: func() ([]byte, error) { return aael.ReadCCEL(aael.CCELPath) },
	})
}

// New makes an attester of a device with the kernel's shape.
func New(o Options) (*Attester, error) {
	switch {
	case o.Reporter == nil || o.Registers == nil || o.Firmware == nil:
		return nil, errors.New("tdx attester: reporter, registers or firmware log not given")
	case o.Reporter.Provider() != configfs.TDX:
		return nil, fmt.Errorf("tdx attester: provider %q: %w", o.Reporter.Provider(), attest.ErrNotPresent)
	}
	return &Attester{o: o}, nil
}

// TEE implements attest.Attester.
func (a *Attester) TEE() string { return tdx.WireName }

// RequestExtra implements attest.Attester.
func (a *Attester) RequestExtra() *kbs.RequestExtra { return nil }

// Close implements attest.Attester.
func (a *Attester) Close() error { return nil }

// Evidence implements attest.Attester.
func (a *Attester) Evidence(ctx context.Context, reportData []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	field := initdata.Fit(reportData, tdx.ReportDataSize)
	var raw []byte
	entries, err := aael.Around(a.entries, func() (err error) {
		raw, _, err = a.o.Reporter.Report(ctx, field)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tdx attester: %w", err)
	}
	return a.evidence(raw, field, entries)
}

func (a *Attester) evidence(raw, field, entries []byte) (json.RawMessage, error) {
	q, err := quote.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("tdx attester: %w", err)
	}
	if q.TD == nil || !bytes.Equal(q.ReportData(), field) {
		return nil, errors.New("tdx attester: the quote is not over the data that was given")
	}
	firmware, err := a.o.Firmware()
	if err != nil {
		return nil, fmt.Errorf("tdx attester: %w", err)
	}
	log, err := aael.CCEventlog(firmware, entries)
	if err != nil {
		return nil, fmt.Errorf("tdx attester: %w", err)
	}
	e := &tdx.Evidence{EventLog: log, Quote: raw, Simulation: a.o.Simulation}
	return e.Encode()
}

// InitdataRegister implements attest.Bound: MRCONFIGID.
func (a *Attester) InitdataRegister(ctx context.Context) ([]byte, error) {
	return sized(a.o.Registers.ConfigID(ctx))
}

// Hash implements attest.Extender.
func (a *Attester) Hash() string { return "sha384" }

// Register implements attest.Extender.
func (a *Attester) Register(pcr int) (int, error) { return tdx.Register(pcr) }

// EventRegister implements attest.Recorder: RTMR 3, which the log calls 4.
func (a *Attester) EventRegister() (register int, index uint32) { return 3, 4 }

// Record implements attest.Recorder.
func (a *Attester) Record(entries func() ([]byte, error)) { a.entries = entries }

// Extend implements attest.Extender.
func (a *Attester) Extend(ctx context.Context, register int, digest []byte) error {
	if err := inRange(register); err != nil {
		return err
	}
	if len(digest) != tdx.RTMRSize {
		return fmt.Errorf("tdx attester: digest of %d bytes, not %d", len(digest), tdx.RTMRSize)
	}
	return a.o.Registers.ExtendRTMR(ctx, register, digest)
}

// Read implements attest.Extender.
func (a *Attester) Read(ctx context.Context, register int) ([]byte, error) {
	if err := inRange(register); err != nil {
		return nil, err
	}
	return sized(a.o.Registers.RTMR(ctx, register))
}

func inRange(register int) error {
	if register < 0 || register >= tdx.RTMRs {
		return fmt.Errorf("tdx attester: RTMR %d: %w", register, attest.ErrUnsupported)
	}
	return nil
}

func sized(b []byte, err error) ([]byte, error) {
	if err == nil && len(b) != tdx.RTMRSize {
		err = fmt.Errorf("tdx attester: register of %d bytes, not %d", len(b), tdx.RTMRSize)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}
