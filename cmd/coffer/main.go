// Command coffer is the owner's and user's tool: it seals pods, runs them in
// Trusted Execution Environments, encrypts images, keeps secrets and explains
// denials. See owner/cli.
package main

import (
	"os"

	"github.com/cofferproject/coffer/owner/cli"
)

func main() {
	cmd, err := cli.NewRoot().ExecuteC()
	cli.PrintError(os.Stderr, cmd, err)
	os.Exit(cli.ExitCode(err))
}
