package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/owner/measure"
	"github.com/cofferproject/coffer/owner/run"
)

// Exit codes of every coffer command; docs/exit-codes.md explains them. They lie
// where a pod's own exit code, which coffer run passes on, rarely is.
const (
	ExitOK          = 0
	ExitUsage       = 2   // wrong flags or arguments
	ExitInput       = 120 // a file given to coffer is wrong: pod, policy, key, configuration
	ExitImage       = 121 // an image cannot be found, read, decrypted or verified
	ExitLaunch      = 122 // the TEE could not be started or died
	ExitDenied      = 123 // attestation or policy refused; the denial says what and why
	ExitTimeout     = 124 // something did not answer in its time
	ExitOther       = 125 // anything else
	ExitNotAffirmed = 126 // coffer verify: genuine evidence that the policy does not affirm
	ExitMissing     = 127 // a container's command is not in its image, as shells have it
)

// ExitError carries the exit code that an error should end the process with.
type ExitError struct {
	Code   int
	Err    error
	Silent bool // print nothing: the pod has said what there is to say
}

// Error gives the wrapped error's text.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap gives the wrapped error.
func (e *ExitError) Unwrap() error { return e.Err }

// Exit wraps err with an exit code; nil stays nil.
func Exit(code int, err error) error {
	if err == nil {
		return nil
	}
	return &ExitError{Code: code, Err: err}
}

// ExitCode gives the process exit code for what a command returned.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	var e *ExitError
	if errors.As(err, &e) {
		return e.Code
	}
	if _, ok := denial.As(err); ok {
		return ExitDenied
	}
	return ExitOther
}

// PrintError says what went wrong: one line of text, or with --output json one
// JSON document on one line, with the exit code and, for a refusal, the denial.
func PrintError(w io.Writer, cmd *cobra.Command, err error) {
	var e *ExitError
	if err == nil || errors.As(err, &e) && e.Silent {
		return
	}
	if cmd == nil || Output(cmd) != "json" {
		fmt.Fprintln(w, "coffer:", err)
		return
	}
	out := struct {
		Error  string         `json:"error"`
		Code   int            `json:"code"`
		Denial *denial.Denial `json:"denial,omitempty"`
		// Launch explains a denial by the inputs of the launch.
		Launch *measure.Explanation `json:"launch,omitempty"`
	}{Error: err.Error(), Code: ExitCode(err)}
	if d, ok := denial.As(err); ok {
		out.Denial = d
	}
	var denied *run.Denied
	if errors.As(err, &denied) {
		out.Launch = denied.Launch
	}
	if b, merr := json.Marshal(out); merr == nil {
		fmt.Fprintf(w, "%s\n", b)
	}
}
