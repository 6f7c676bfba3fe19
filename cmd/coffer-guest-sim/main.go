// Command coffer-guest-sim is coffer-guest with simulated attesters: PID 1 in the TEE, and under other names each of the
// guest's processes.
package main

import (
	"log/slog"
	"os"

	"github.com/cofferproject/coffer/guest/boot/pid1"
	"github.com/cofferproject/coffer/guest/keyholder"
	"github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/sim"
)

func main() {
	os.Exit(pid1.Dispatch(os.Args, pid1.Options{
		Variant: "sim", Simulated: true,
		OpenAttester: openAttester,
	}))
}

// openAttester opens the TPM, a software TPM included.
func openAttester(log *slog.Logger) (keyholder.Attester, error) {
	t, err := device.Open()
	if err != nil {
		return nil, err
	}
	return sim.New(t, attester.Options{Logger: log})
}
