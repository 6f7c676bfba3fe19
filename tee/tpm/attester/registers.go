package attester

import (
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

// takesEvents is for device.Events: all PCRs do, except those whose every event a
// reference value must explain (an extend would make the guest unattestable; PCR 8
// is initdata's alone) and those that anybody may reset, in which an event proves
// nothing.
func takesEvents(pcr int) error {
	switch {
	case pcr < 0 || pcr >= tpm.PCRCount:
		return fmt.Errorf("PCR %d: %w", pcr, attest.ErrUnsupported)
	case slices.Contains(refvalue.QuotedPCRs, pcr):
		return fmt.Errorf("PCR %d holds the measured boot: %w", pcr, attest.ErrUnsupported)
	case device.Resettable(pcr):
		return fmt.Errorf("PCR %d can be reset: %w", pcr, attest.ErrUnsupported)
	}
	return nil
}
