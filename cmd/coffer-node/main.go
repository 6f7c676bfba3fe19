// Command coffer-node is the node's side of Coffer: it launches TEEs and cleans
// up after them. It is never trusted with a secret.
package main

import (
	"fmt"
	"os"
)

const usage = `usage: coffer-node COMMAND

  sandbox          launch one sandbox, asked for and watched on standard input
                   and output (package api/nodeapi); started by coffer run
  sweep [--root DIR]
                   remove what runs left behind whose processes are all gone
  doctor [--tee TEE] [--output json]
                   what each TEE needs of this machine, what is missing and
                   what to do; exit status 1 if none can run
  config --out DIR --tee TEE... [--platform FILE] [--aliases] [--output json]
                   write containerd's configuration, the handlers' files and the
                   RuntimeClasses for these kinds of TEE (config --help)
  snapshotter [--listen SOCKET] [--root DIR] [--containerd SOCKET] [--name NAME] [--kata-volume]
                   containerd's proxy plugin for images that the guest pulls
                   itself: no layer is fetched on the node
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var err error
	switch cmd, args := os.Args[1], os.Args[2:]; cmd {
	case "sandbox":
		err = sandboxMain(args)
	case "sweep":
		err = sweepMain(args)
	case "doctor":
		err = doctorMain(args, os.Stdout)
	case "config":
		err = configMain(args, os.Stdout)
	case "snapshotter":
		err = snapshotterMain(args)
	case "supervise": // started by sandbox
		err = superviseMain(args)
	case "help", "-h", "--help":
		fmt.Print(usage)
	default:
		fmt.Fprintf(os.Stderr, "coffer-node: unknown command %q\n%s", cmd, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "coffer-node:", err)
		os.Exit(1)
	}
}
