// Package sgx holds the codec of the published SGX evidence with its one
// addition (SPEC.md).
//
// Subpackages are split by trust step: attester gets evidence from the library
// OS, verifier judges it (the quote itself by tee/intel), measure computes
// MRENCLAVE, sim plays the hardware.
//
// Invariants: the decoder is bounded and never panics; nothing here decides.
//
// Trust zone: guest and trustee.
package sgx

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// WireName is the TEE's name in the KBS protocol.
const WireName = "sgx"

// Sizes in bytes.
const (
	ReportDataSize = 64
	ConfigIDSize   = 64 // CONFIGID, which binds initdata
)

// Limits, in bytes.
const (
	MaxEvidence = 128 << 10
	MaxNote     = 1 << 10
)

// Evidence is the primary evidence of TEE "sgx".
type Evidence struct {
	Quote []byte `json:"quote"`
	// Simulation says what is not real (addition); "" for hardware.
	Simulation string `json:"simulation,omitempty"`
}

// Encode gives the published JSON.
func (e *Evidence) Encode() (json.RawMessage, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("sgx evidence: %w", err)
	}
	return b, nil
}

// Parse decodes evidence. An unknown member is an error: it might change the
// meaning of the rest.
func Parse(b []byte) (*Evidence, error) {
	e := new(Evidence)
	if err := jsonobject.Strict(b, MaxEvidence, e); err != nil {
		return nil, fmt.Errorf("sgx evidence: %w", err)
	}
	return e, e.check()
}

func (e *Evidence) check() error {
	switch {
	case len(e.Quote) == 0 || len(e.Quote) > quote.MaxSize:
		return fmt.Errorf("sgx evidence: quote of %d bytes, at least 1 and at most %d", len(e.Quote), quote.MaxSize)
	case len(e.Simulation) > MaxNote || strings.ContainsAny(e.Simulation, "\r\n"):
		return errors.New("sgx evidence: simulation note too long or of several lines")
	}
	return nil
}
