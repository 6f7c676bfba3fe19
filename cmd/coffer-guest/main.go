// Command coffer-guest is PID 1 in the TEE, and under other names each of the
// guest's processes.
package main

import (
	"os"

	"github.com/cofferproject/coffer/guest/boot/pid1"
)

func main() {
	os.Exit(pid1.Dispatch(os.Args, pid1.Options{Variant: "release"}))
}
