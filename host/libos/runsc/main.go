// Command coffer-runsc is gVisor's runsc, built from its published module as a
// program of its own, with three entry points more for what a sandbox's network
// takes. It is a module of its own so that gVisor's dependencies are in no other
// program of Coffer.
//
//	coffer-runsc coffer-start ARGS...   make the sandbox's interface, then become runsc ARGS...
//	coffer-runsc coffer-join ARGS...    enter the pod's network namespace, then become runsc ARGS...
//	coffer-runsc coffer-net             carry the interface's traffic to this machine's sockets
//	coffer-runsc ARGS...                runsc, unchanged
//
// host/libos starts all of them; package api/libos has the arguments. Its digest is
// measured (api/libos/SPEC.md).
//
// Trust zone: host, but for what runs as the Sentry: in simulation that is the
// library OS. Simulation protects nothing.
package main

import (
	"fmt"
	"os"

	"gvisor.dev/gvisor/runsc/cli/maincli"
)

func main() {
	if len(os.Args) < 2 {
		maincli.Main()
		return
	}
	var err error
	switch os.Args[1] {
	case "coffer-start":
		err = start(os.Args[2:])
	case "coffer-join":
		err = join(os.Args[2:])
	case "coffer-net":
		err = serveNetwork(os.Args[2:])
	default:
		maincli.Main()
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "coffer-runsc:", err)
		os.Exit(1)
	}
}
