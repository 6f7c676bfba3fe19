// Command coffer-runsc is gVisor's runsc, built from its published module as a
// program of its own, with three entry points more for what a sandbox's network
// takes. It is a module of its own so that gVisor's dependencies are in no other
// program of Coffer.
//
//	coffer-runsc coffer-start ARGS...   make the sandbox's interface, then become runsc ARGS...
//	coffer-runsc coffer-join ARGS...    enter the pod's network namespace, then become runsc ARGS...
//	coffer-runsc coffer-net             carry the interface's traffic to this machine's sockets
//	coffer-runsc ARGS...                runsc, with the commands that a sandbox takes
//
// What runsc can do beside that (checkpoints, which come with 47 MB of a program of
// their own, installation, tracing, profiles) is left out: the whole file is measured
// at each start, and the Sentry runs it.
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

	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

// runsc runs one of its commands.
func runsc() {
	const user, internal = "", "internal use only"
	cli.Run(nil, map[util.SubCommand]string{
		new(cmd.Run): user, new(cmd.Kill): user, new(cmd.Delete): user, new(cmd.State): user, new(cmd.List): user,
		new(sentrycmd.Boot): internal, new(cmd.Gofer): internal, new(sentrycmd.Umount): internal,
	}, nil)
}

func main() {
	if len(os.Args) < 2 {
		runsc()
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
		runsc()
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "coffer-runsc:", err)
		os.Exit(1)
	}
}
