// Command coffer is the owner's and user's tool: it seals pods, runs them in
// Trusted Execution Environments, encrypts images, keeps secrets and explains
// denials. See owner/cli.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/cofferproject/coffer/owner/cli"
)

func main() {
	err := cli.NewRoot().Execute()
	var e *cli.ExitError
	if err != nil && !(errors.As(err, &e) && e.Silent) {
		fmt.Fprintln(os.Stderr, "coffer:", err)
	}
	os.Exit(cli.ExitCode(err))
}
