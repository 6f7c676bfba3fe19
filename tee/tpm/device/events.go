package device

import (
	"context"
	"sync"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/cofferproject/coffer/api/refvalue"
)

// Events takes run-time events into a TPM's one register for them:
// attest.Recorder, for the attesters of all TEEs that have a TPM.
type Events struct {
	mu      *sync.Mutex
	t       transport.TPM
	entries func() ([]byte, error)
}

// NewEvents uses a connection under its lock.
func NewEvents(mu *sync.Mutex, t transport.TPM) Events { return Events{mu: mu, t: t} }

// Hash implements attest.Extender: the bank that quotes cover.
func (e *Events) Hash() string { return "sha256" }

// Register implements attest.Extender. As published any PCR but initdata's would
// take events; then no policy could name the values of the measured boot.
func (e *Events) Register(pcr int) (int, error) { return EventRegister(pcr) }

// EventRegister implements attest.Recorder: a log has PCRs by their numbers.
func (e *Events) EventRegister() (register int, index uint32) {
	return refvalue.PCREvents, refvalue.PCREvents
}

// Record implements attest.Recorder.
func (e *Events) Record(entries func() ([]byte, error)) { e.entries = entries }

// Entries is what Record was given, nil if no events are recorded.
func (e *Events) Entries() func() ([]byte, error) { return e.entries }

// Extend implements attest.Extender.
func (e *Events) Extend(_ context.Context, register int, digest []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return ExtendEvent(e.t, register, digest)
}

// Read implements attest.Extender; any PCR can be read. (The published attester
// cannot read on TDX and so fails on its first event.)
func (e *Events) Read(_ context.Context, register int) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return ReadPCR(e.t, register)
}
