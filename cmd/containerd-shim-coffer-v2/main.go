// Command containerd-shim-coffer-v2 is what containerd starts for each pod that
// runs in a TEE: see host/shim.
package main

import (
	"fmt"
	"os"

	"github.com/cofferproject/coffer/host/shim"
)

func main() {
	if err := shim.Main(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "containerd-shim-coffer-v2:", err)
		os.Exit(1)
	}
}
