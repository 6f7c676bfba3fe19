package attester

import (
	"context"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

var (
	_ attest.Attester = (*Attester)(nil)
	_ attest.Recorder = (*Attester)(nil)
)

// Hash implements attest.Extender: the bank that quotes cover.
func (a *Attester) Hash() string { return "sha256" }

// Register implements attest.Extender.
func (a *Attester) Register(pcr int) (int, error) { return device.EventRegister(pcr) }

// EventRegister implements attest.Recorder: a log has PCRs by their numbers.
func (a *Attester) EventRegister() (register int, index uint32) {
	return refvalue.PCREvents, refvalue.PCREvents
}

// Record implements attest.Recorder.
func (a *Attester) Record(entries func() ([]byte, error)) { a.entries = entries }

// Extend implements attest.Extender.
func (a *Attester) Extend(_ context.Context, register int, digest []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return device.ExtendEvent(a.t, register, digest)
}

// Read implements attest.Extender; any PCR can be read.
func (a *Attester) Read(_ context.Context, register int) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return device.ReadPCR(a.t, register)
}
