package attester

import (
	"context"
	"fmt"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

// Hash implements attest.Extender.
func (a *Attester) Hash() string { return "sha256" }

// Register implements attest.Extender. As published a PCR is its own register;
// PCR 8 is initdata's alone, and in one that anybody may reset an event proves
// nothing.
func (a *Attester) Register(pcr int) (int, error) {
	if pcr < 0 || pcr >= azure.PCRCount || pcr == refvalue.PCRInitdata || device.Resettable(pcr) {
		return 0, fmt.Errorf("PCR %d takes no events: %w", pcr, attest.ErrUnsupported)
	}
	return pcr, nil
}

// Extend implements attest.Extender.
func (a *Attester) Extend(_ context.Context, register int, digest []byte) error {
	pcr, err := a.Register(register)
	if err != nil {
		return err
	}
	d, err := device.Digest(digest)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return device.Extend(a.t, uint(pcr), d)
}

// Read implements attest.Extender, on both TEEs: the published attester cannot
// read on TDX and so fails on its first event.
func (a *Attester) Read(_ context.Context, register int) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return device.ReadPCR(a.t, register)
}
