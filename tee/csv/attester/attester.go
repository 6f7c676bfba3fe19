// Package attester gets Hygon CSV evidence from the kernel's device
// (/dev/csv-guest): an extended report over the session's report data, and the
// event logs that its run-time registers explain.
//
// Invariants: it is chosen by the device alone and falls back to nothing; the
// report is handed out only if it is over the data and nonce that were asked for;
// it opens no connection, so HSK and CEK are the trustee's to have. CSV binds no
// initdata: this attester is no attest.Bound.
//
// Trust zone: guest.
package attester

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/csv"
	"github.com/cofferproject/coffer/tee/eventlog"
)

// Device is the secure processor's interface in the guest.
type Device interface {
	// Report answers an extended request (Request) with a report of
	// csv.ReportSize bytes.
	Report(ctx context.Context, request []byte) ([]byte, error)
	// ReadRTMR reads a run-time register, ExtendRTMR extends it with an SM3 digest.
	ReadRTMR(ctx context.Context, register int) ([]byte, error)
	ExtendRTMR(ctx context.Context, register int, digest []byte) error
}

// Options make an Attester.
type Options struct {
	Device Device
	// Firmware gives the firmware's event log; nil log: there is none.
	Firmware func() ([]byte, error)
	// Entries gives the guest's own entries (aael.Log.Bytes); nil: the guest
	// records none.
	Entries func() ([]byte, error)
}

// Attester is the attester of TEE "csv".
type Attester struct{ o Options }

var (
	_ attest.Attester = (*Attester)(nil)
	_ attest.Extender = (*Attester)(nil)
)

// Open makes the attester of this machine; attest.ErrNotPresent if it is no CSV guest.
func Open(entries func() ([]byte, error)) (*Attester, error) {
	d, err := OpenKernel(DevicePath)
	if err != nil {
		return nil, fmt.Errorf("csv attester: %w", err)
	}
	return New(Options{Device: d, Entries: entries, Firmware: func() ([]byte, error) { return aael.ReadCCEL(aael.CCELPath) }})
}

// New makes an attester of a device.
func New(o Options) (*Attester, error) {
	if o.Device == nil || o.Firmware == nil {
		return nil, errors.New("csv attester: device or firmware log not given")
	}
	return &Attester{o}, nil
}

// TEE implements attest.Attester.
func (a *Attester) TEE() string { return csv.WireName }

// RequestExtra implements attest.Attester: nothing.
func (a *Attester) RequestExtra() *kbs.RequestExtra { return nil }

// Close implements attest.Attester.
func (a *Attester) Close() error {
	if c, ok := a.o.Device.(interface{ Close() error }); ok {
		return c.Close()
	}
	return nil
}

const nonceSize = 16

// Request is an extended report request: data, nonce, SM3 of both, magic, flags.
func Request(data [csv.ReportDataSize]byte, nonce [nonceSize]byte) []byte {
	b := append(append([]byte{}, data[:]...), nonce[:]...)
	b = append(b, eventlog.SM3.Hash(b)...)
	b = append(b, csv.ExtendedMagic[:]...)
	return append(b, 1, 0, 0, 0)
}

// Evidence implements attest.Attester.
func (a *Attester) Evidence(ctx context.Context, reportData []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	data := [csv.ReportDataSize]byte(initdata.Fit(reportData, csv.ReportDataSize))
	for range 3 {
		before, err := a.entries()
		if err != nil {
			return nil, err
		}
		e, err := a.report(ctx, data)
		if err != nil {
			return nil, err
		}
		after, err := a.entries()
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(before, after) {
			continue // an event came in between: the report may have it or not
		}
		return a.evidence(e, after)
	}
	return nil, errors.New("csv attester: the event log grew with every report")
}

func (a *Attester) report(ctx context.Context, data [csv.ReportDataSize]byte) (*csv.Evidence, error) {
	var nonce [nonceSize]byte
	_, _ = rand.Read(nonce[:]) // never fails
	b, err := a.o.Device.Report(ctx, Request(data, nonce))
	if err != nil {
		return nil, fmt.Errorf("csv attester: %w", err)
	}
	if len(b) != csv.ReportSize {
		return nil, fmt.Errorf("csv attester: report of %d bytes, not %d", len(b), csv.ReportSize)
	}
	e := &csv.Evidence{Report: [csv.ReportSize]byte(b), Flags: 1, Magic: csv.ExtendedMagic}
	rep, err := e.ParseReport()
	if err != nil {
		return nil, fmt.Errorf("csv attester: %w", err)
	}
	if !bytes.Equal(rep.ReportData, data[:]) || !bytes.Equal(rep.MNonce, nonce[:]) {
		return nil, errors.New("csv attester: the report is not over the data that was given, or not an extended one")
	}
	e.PEK, e.Serial = rep.PEK, rep.Serial
	return e, nil
}

func (a *Attester) evidence(e *csv.Evidence, entries []byte) (json.RawMessage, error) {
	firmware, err := a.o.Firmware()
	if err != nil {
		return nil, fmt.Errorf("csv attester: %w", err)
	}
	if e.EventLog, err = aael.CCEventlog(firmware, entries); err != nil {
		return nil, fmt.Errorf("csv attester: %w", err)
	}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("csv attester: %w", err)
	}
	return b, nil
}

func (a *Attester) entries() ([]byte, error) {
	if a.o.Entries == nil {
		return nil, nil
	}
	b, err := a.o.Entries()
	if err != nil {
		return nil, fmt.Errorf("csv attester: %w", err)
	}
	return b, nil
}

// Hash implements attest.Extender.
func (a *Attester) Hash() string { return "sm3" }

// Register implements attest.Extender: the published mapping of PCRs. The log
// gives registers the same numbers (aael.Options.FirstIndex is 0).
func (a *Attester) Register(pcr int) (int, error) {
	switch {
	case pcr < 0 || pcr > 23:
		return 0, fmt.Errorf("csv attester: PCR %d: %w", pcr, attest.ErrUnsupported)
	case pcr == 0:
		return 0, fmt.Errorf("csv attester: PCR 0 is the launch digest: %w", attest.ErrUnsupported)
	case pcr == 1 || pcr == 7:
		return 1, nil
	case pcr <= 6:
		return 2, nil
	case pcr <= 15:
		return 3, nil
	}
	return 4, nil
}

// Extend implements attest.Extender.
func (a *Attester) Extend(ctx context.Context, register int, digest []byte) error {
	if register < 1 || register >= csv.RTMRs || len(digest) != csv.RTMRSize {
		return fmt.Errorf("csv attester: register %d with a digest of %d bytes: %w", register, len(digest), attest.ErrUnsupported)
	}
	return a.o.Device.ExtendRTMR(ctx, register, digest)
}

// Read implements attest.Extender.
func (a *Attester) Read(ctx context.Context, register int) ([]byte, error) {
	if register < 0 || register >= csv.RTMRs {
		return nil, fmt.Errorf("csv attester: register %d: %w", register, attest.ErrUnsupported)
	}
	b, err := a.o.Device.ReadRTMR(ctx, register)
	if err != nil {
		return nil, err
	}
	if len(b) != csv.RTMRSize {
		return nil, fmt.Errorf("csv attester: register %d of %d bytes, not %d", register, len(b), csv.RTMRSize)
	}
	return b, nil
}
