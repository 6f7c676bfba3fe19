// Package attester gets SEV-SNP evidence: a report over the session's report
// data, with the host's certificate table, in the published form (SPEC.md).
//
// Invariants: the report is handed out only if it carries the report data that
// was asked for; simulation is never a fallback: its note is set by
// coffer-guest-sim alone.
//
// Trust zone: guest.
package attester

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/attest/configfs"
	"github.com/cofferproject/coffer/tee/snp"
)

// Options configures New.
type Options struct {
	// Simulation is the note that goes into the evidence. Only coffer-guest-sim
	// sets it.
	Simulation string
}

// Attester gets evidence from one device. It is safe for concurrent use.
type Attester struct {
	device attest.Reporter
	o      Options

	mu       sync.Mutex
	hostData []byte
}

var (
	_ attest.Attester = (*Attester)(nil)
	_ attest.Bound    = (*Attester)(nil)
)

// Open finds the device by what the kernel says: configfs-tsm, or else
// /dev/sev-guest. attest.ErrNotPresent: this is no SEV-SNP guest.
func Open() (*Attester, error) {
	r, err := configfs.Open(configfs.Dir, configfs.SNP)
	if err == nil {
		return New(r, Options{})
	}
	if !errors.Is(err, attest.ErrNotPresent) {
		return nil, err
	}
	d, err := OpenDevice(DevicePath)
	if err != nil {
		return nil, err
	}
	return New(d, Options{})
}

// New makes an attester of a device. Close closes the device, if it can be.
func New(device attest.Reporter, o Options) (*Attester, error) {
	if p := device.Provider(); p != configfs.SNP {
		return nil, fmt.Errorf("snp attester: provider %q: %w", p, attest.ErrNotPresent)
	}
	return &Attester{device: device, o: o}, nil
}

// TEE gives the wire name.
func (a *Attester) TEE() string { return snp.WireName }

// RequestExtra gives nil: the handshake needs nothing.
func (a *Attester) RequestExtra() *kbs.RequestExtra { return nil }

// Evidence gives a report over reportData, cut or padded to 64 bytes.
func (a *Attester) Evidence(ctx context.Context, reportData []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	r, aux, err := a.report(ctx, [64]byte(initdata.Fit(reportData, 64)))
	if err != nil {
		return nil, err
	}
	certs, err := snp.ParseTable(aux)
	if err != nil {
		return nil, fmt.Errorf("snp attester: %w", err)
	}
	return (&snp.Evidence{Report: r, Certs: certs, Simulation: a.o.Simulation}).Encode()
}

// InitdataRegister gives HOST_DATA, which never changes. The report comes over
// the encrypted channel between guest and secure processor.
func (a *Attester) InitdataRegister(ctx context.Context) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hostData == nil {
		r, _, err := a.report(ctx, [64]byte{})
		if err != nil {
			return nil, err
		}
		a.hostData = r.HostData[:]
	}
	return append([]byte(nil), a.hostData...), nil
}

func (a *Attester) report(ctx context.Context, data [64]byte) (*snp.Report, []byte, error) {
	raw, aux, err := a.device.Report(ctx, data[:])
	if err != nil {
		return nil, nil, fmt.Errorf("snp attester: %w", err)
	}
	r, err := snp.ParseReport(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("snp attester: %w", err)
	}
	if r.ReportData != data {
		return nil, nil, errors.New("snp attester: the report is over other report data")
	}
	return r, aux, nil
}

// Close closes the device.
func (a *Attester) Close() error {
	if c, ok := a.device.(interface{ Close() error }); ok {
		return c.Close()
	}
	return nil
}
