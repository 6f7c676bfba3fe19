package attester

import (
	"fmt"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

// takesEvents is for device.Events. PCR 8 is initdata's alone, and in a register
// that anybody may reset an event proves nothing. (The published attester cannot
// read registers on TDX and so fails on its first event; this one can.)
func takesEvents(pcr int) error {
	if pcr < 0 || pcr >= azure.PCRCount || pcr == refvalue.PCRInitdata || device.Resettable(pcr) {
		return fmt.Errorf("PCR %d takes no events: %w", pcr, attest.ErrUnsupported)
	}
	return nil
}
