package attester

import (
	"context"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

var _ attest.Recorder = (*Attester)(nil)

// Hash implements attest.Extender.
func (a *Attester) Hash() string { return "sha256" }

// Register implements attest.Extender. As published any PCR but initdata's would
// take events; then no policy could name the values of the measured boot.
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

// Read implements attest.Extender, on both TEEs: the published attester cannot
// read on TDX and so fails on its first event.
func (a *Attester) Read(_ context.Context, register int) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return device.ReadPCR(a.t, register)
}
