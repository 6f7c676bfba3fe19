// Go's runtime would give each piece of its memory a name, by a system call of its own.
//go:debug decoratemappings=0

// Command coffer-guest-sim is coffer-guest with simulated attesters: PID 1 in the TEE, and under other names each of the
// guest's processes.
package main

import (
	"log/slog"
	"os"

	"github.com/cofferproject/coffer/guest/boot/pid1"
	"github.com/cofferproject/coffer/guest/keyholder"
)

func main() {
	os.Exit(pid1.Dispatch(os.Args, pid1.Options{
		Variant: "sim", Simulated: true,
		Register:     register,
		Devices:      devices,
		OpenAttester: func(log *slog.Logger) (keyholder.Attester, error) { return openAttester(log) },
		OpenDevices:  openDevices,
		InLibraryOS:  true,
		Hardware:     func(f *os.File) { port = f },
		SealingKey:   sealingKey,
	}))
}
