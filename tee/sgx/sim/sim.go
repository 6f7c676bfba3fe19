// Package sim plays SGX for a library OS without it: reports of an enclave whose
// fields the caller computed, quoted by a simulated machine (tee/intel/sim) in
// the format v3. It has the shape of a library OS for package attester.
//
// Trust zone: simulated hardware and tests; no release guest links it.
package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/cofferproject/coffer/tee/intel/quote"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/sgx"
)

// Enclave is a running enclave. It implements attester.LibraryOS.
type Enclave struct {
	machine *intelsim.Platform

	mu    sync.Mutex
	body  quote.Enclave
	fuses []byte
}

// Measured is what hardware would have measured of the enclave.
type Measured struct {
	MREnclave, MRSigner [32]byte
	ProductID, SVN      uint16
	// ConfigID binds the initdata: its SHA-512, zeros without a document.
	ConfigID [64]byte
	Flags    uint64 // ATTRIBUTES.FLAGS; 0: INIT, MODE64 and KSS
	Debug    bool
}

// New starts an enclave on a machine.
func New(machine *intelsim.Platform, m Measured) *Enclave {
	b := machine.Enclave()
	b.MREnclave, b.MRSigner, b.ConfigID = m.MREnclave, m.MRSigner, m.ConfigID
	b.ISVProdID = [2]byte{byte(m.ProductID), byte(m.ProductID >> 8)}
	b.ISVSVN = [2]byte{byte(m.SVN), byte(m.SVN >> 8)}
	if m.Flags != 0 {
		binary.LittleEndian.PutUint64(b.Flags[:], m.Flags)
	}
	if m.Debug {
		b.Flags[0] |= byte(quote.FlagDebug)
	}
	return &Enclave{machine: machine, body: b}
}

// Quote gives a quote over 64 bytes.
func (e *Enclave) Quote(_ context.Context, reportData []byte) ([]byte, error) {
	if len(reportData) != sgx.ReportDataSize {
		return nil, errors.New("sgx simulator: report data is not 64 bytes")
	}
	e.mu.Lock()
	b := e.body
	e.mu.Unlock()
	copy(b.ReportData[:], reportData)
	return e.machine.QuoteEnclave(&b, 3)
}

// Report gives the report on the enclave itself; its MAC is zero.
func (e *Enclave) Report(context.Context) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append(e.body.Bytes(), make([]byte, 48)...), nil
}
