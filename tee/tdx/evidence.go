// Package tdx holds what both sides of Intel TDX evidence share: the codec of
// the published evidence with its one addition, and the register numbers
// (SPEC.md).
//
// Subpackages are split by trust step: attester gets evidence from the kernel,
// verifier judges it (the quote itself by tee/intel), measure computes expected
// values, sim plays the hardware.
//
// Invariants: the decoder is bounded and never panics; nothing here decides.
//
// Trust zone: guest and trustee.
package tdx

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// WireName is the TEE's name in the KBS protocol.
const WireName = "tdx"

// Sizes of registers, in bytes.
const (
	ReportDataSize = 64
	ConfigIDSize   = 48 // MRCONFIGID, which binds initdata
	RTMRSize       = 48
	RTMRs          = 4
)

// Limits, in bytes. An event log comes with the unused area of its ACPI table.
const (
	MaxEvidence = 2 << 20
	MaxEventLog = 1 << 20
	MaxNote     = 1 << 10
)

// Evidence is the primary evidence of TEE "tdx".
type Evidence struct {
	// EventLog is the firmware's event log (CCEL), the attestation agent's
	// entries behind it; nil: none.
	EventLog []byte
	Quote    []byte
	// Simulation says what is not real (addition); "" for hardware.
	Simulation string
}

type wire struct {
	EventLog   []byte `json:"cc_eventlog"` // null if nil
	Quote      []byte `json:"quote"`
	Simulation string `json:"simulation,omitempty"`
}

// Encode gives the published JSON.
func (e *Evidence) Encode() (json.RawMessage, error) {
	w := wire(*e)
	if len(w.EventLog) == 0 {
		w.EventLog = nil
	}
	b, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("tdx evidence: %w", err)
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	return b, nil
}

// Parse decodes evidence. An unknown member is an error: it might change the
// meaning of the rest.
func Parse(b []byte) (*Evidence, error) {
	var w wire
	if err := jsonobject.Strict(b, MaxEvidence, &w); err != nil {
		return nil, fmt.Errorf("tdx evidence: %w", err)
	}
	e := Evidence(w)
	return &e, e.check()
}

func (e *Evidence) check() error {
	switch {
	case len(e.Quote) == 0 || len(e.Quote) > quote.MaxSize:
		return fmt.Errorf("tdx evidence: quote of %d bytes, at least 1 and at most %d", len(e.Quote), quote.MaxSize)
	case len(e.EventLog) > MaxEventLog:
		return fmt.Errorf("tdx evidence: event log of %d bytes, at most %d", len(e.EventLog), MaxEventLog)
	case len(e.Simulation) > MaxNote || strings.ContainsAny(e.Simulation, "\r\n"):
		return errors.New("tdx evidence: simulation note too long or of several lines")
	}
	return nil
}

// Register maps a PCR number to the RTMR that takes its events, as published:
// 1 and 7 to RTMR 0, 2 to 6 to RTMR 1, 8 to 15 to RTMR 2, the rest to RTMR 3.
func Register(pcr int) (int, error) {
	switch {
	case pcr < 0 || pcr > 23:
		return 0, fmt.Errorf("PCR %d in an RTMR: %w", pcr, attest.ErrUnsupported)
	case pcr == 1 || pcr == 7:
		return 0, nil
	case pcr >= 2 && pcr <= 6:
		return 1, nil
	case pcr >= 8 && pcr <= 15:
		return 2, nil
	}
	return 3, nil
}
