package quote

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/verify"
)

// Reasons of denials about run-time events, of all TEEs with a TPM.
const (
	ReasonEventsMalformed denial.Reason = "aael-malformed"
	ReasonEventsMismatch  denial.Reason = "aael-mismatch"
)

// Events explains PCR 15: from zero, exactly the entries of the evidence. They are
// claims, which a policy may judge; without entries the register must be zero.
// component names the caller in denials.
func Events(component string, entries []byte, measured [32]byte) ([]eventlog.Event, error) {
	v, events, err := aael.Explain(entries, refvalue.PCREvents, eventlog.SHA256)
	if err != nil {
		return nil, &denial.Denial{Reason: ReasonEventsMalformed, Component: component, Claim: "aael", Detail: err.Error()}
	}
	if !bytes.Equal(v, measured[:]) {
		return nil, &denial.Denial{
			Reason: ReasonEventsMismatch, Component: component, Claim: fmt.Sprintf("PCR %d: run-time events", refvalue.PCREvents),
			Measured: hex.EncodeToString(measured[:]), Expected: hex.EncodeToString(v),
			Source: fmt.Sprintf("replay of the %d run-time events in the same evidence", len(events)),
		}
	}
	return events, nil
}

// EventClaims adds the claims about run-time events, if there are any: in the
// published form of TDX and CSV, and their texts alone.
func EventClaims(claims map[string]any, events []eventlog.Event) {
	if len(events) > 0 {
		claims["uefi_event_logs"] = (&eventlog.Log{Events: events}).Describe()
		claims[verify.ClaimRuntimeEvents] = aael.Texts(events)
	}
}
