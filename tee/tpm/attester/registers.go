package attester

import (
	"context"
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

var (
	_ attest.Attester = (*Attester)(nil)
	_ attest.Extender = (*Attester)(nil)
)

// Hash implements attest.Extender: the bank that quotes cover.
func (a *Attester) Hash() string { return "sha256" }

// Register implements attest.Extender. A PCR is its own register, except those
// whose every event a reference value must explain (an extend would make the
// guest unattestable; PCR 8 is initdata's alone) and those that anybody may
// reset, in which an event proves nothing.
func (a *Attester) Register(pcr int) (int, error) {
	switch {
	case pcr < 0 || pcr >= tpm.PCRCount:
		return 0, fmt.Errorf("PCR %d: %w", pcr, attest.ErrUnsupported)
	case slices.Contains(refvalue.QuotedPCRs, pcr):
		return 0, fmt.Errorf("PCR %d holds the measured boot: %w", pcr, attest.ErrUnsupported)
	case device.Resettable(pcr):
		return 0, fmt.Errorf("PCR %d can be reset: %w", pcr, attest.ErrUnsupported)
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

// Read implements attest.Extender; any PCR can be read.
func (a *Attester) Read(_ context.Context, register int) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return device.ReadPCR(a.t, register)
}
