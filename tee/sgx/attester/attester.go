// Package attester gets SGX evidence from the library OS that runs the pod:
// Gramine's pseudo-files, or Occlum's device.
//
// Invariants: it is chosen by what the library OS says of itself and falls back
// to nothing; the register that binds initdata is read from a report that the
// CPU makes inside the enclave, never from the quote, which comes through the
// host.
//
// Trust zone: guest.
package attester

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/sgx"
)

// LibraryOS is what an enclave's library OS offers.
type LibraryOS interface {
	// Quote gives a quote over 64 bytes.
	Quote(ctx context.Context, reportData []byte) ([]byte, error)
	// Report gives the CPU's report on this enclave, of which the first 384 bytes
	// are the body.
	Report(ctx context.Context) ([]byte, error)
}

// Attester is the attester of TEE "sgx".
type Attester struct {
	mu         sync.Mutex // the pseudo-files are one request at a time
	os         LibraryOS
	simulation string
}

var (
	_ attest.Attester = (*Attester)(nil)
	_ attest.Bound    = (*Attester)(nil)
)

// Open finds the library OS; attest.ErrNotPresent if there is none.
func Open() (*Attester, error) {
	for _, find := range []func() (LibraryOS, error){
		func() (LibraryOS, error) { return openOcclum(OcclumDevice) },
		func() (LibraryOS, error) { return openGramine(GramineDir) },
	} {
		l, err := find()
		if err == nil {
			return &Attester{os: l}, nil
		}
		if !errors.Is(err, attest.ErrNotPresent) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("sgx attester: neither Occlum nor Gramine: %w", attest.ErrNotPresent)
}

// New makes an attester of a library OS; simulation is the note of a simulated
// one, "" for hardware.
func New(l LibraryOS, simulation string) *Attester { return &Attester{os: l, simulation: simulation} }

// TEE implements attest.Attester.
func (a *Attester) TEE() string { return sgx.WireName }

// RequestExtra implements attest.Attester.
func (a *Attester) RequestExtra() *kbs.RequestExtra { return nil }

// Close implements attest.Attester.
func (a *Attester) Close() error { return nil }

// Evidence implements attest.Attester.
func (a *Attester) Evidence(ctx context.Context, reportData []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	field := initdata.Fit(reportData, sgx.ReportDataSize)
	raw, err := a.os.Quote(ctx, field)
	if err != nil {
		return nil, fmt.Errorf("sgx attester: %w", err)
	}
	q, err := quote.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("sgx attester: %w", err)
	}
	if q.Enclave == nil || !bytes.Equal(q.ReportData(), field) {
		return nil, errors.New("sgx attester: the quote is not over the data that was given")
	}
	e := &sgx.Evidence{Quote: raw, Simulation: a.simulation}
	return e.Encode()
}

// InitdataRegister implements attest.Bound: CONFIGID.
func (a *Attester) InitdataRegister(ctx context.Context) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, err := a.os.Report(ctx)
	if err != nil {
		return nil, fmt.Errorf("sgx attester: %w", err)
	}
	e, err := quote.ParseEnclave(r)
	if err != nil {
		return nil, fmt.Errorf("sgx attester: %w", err)
	}
	return e.ConfigID[:], nil
}
