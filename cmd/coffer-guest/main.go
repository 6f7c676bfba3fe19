// Go's runtime would give each piece of its memory a name, by a system call of its own.
//go:debug decoratemappings=0

// Command coffer-guest is PID 1 in the TEE, and under other names each of the
// guest's processes.
package main

import (
	"log/slog"
	"os"

	"github.com/cofferproject/coffer/guest/boot/pid1"
	"github.com/cofferproject/coffer/guest/keyholder"
	"github.com/cofferproject/coffer/guest/teedev"
)

func main() {
	os.Exit(pid1.Dispatch(os.Args, pid1.Options{
		Variant:  "release",
		Register: teedev.Register,
		OpenAttester: func(log *slog.Logger) (keyholder.Attester, error) {
			return teedev.Open(log) // which refuses software TPMs
		},
		OpenDevices: teedev.Devices,
	}))
}
