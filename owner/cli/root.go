// Package cli is the coffer command: the data owner's and user's one tool. It
// parses flags, calls the owner's packages and prints; nothing else.
//
// Trust zone: owner. The commands run where the owner types them; they start
// coffer-node (host zone) and coffer-trustee as child processes and never link
// their code.
package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// NewRoot gives the whole command tree. Callers execute it and turn the error
// into a process exit code with ExitCode.
func NewRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "coffer",
		Short: "Run Kubernetes pods inside Trusted Execution Environments",
		Long: `coffer runs unmodified Kubernetes pods inside Trusted Execution Environments
and releases their keys and secrets only after remote attestation.

Exit codes: docs/exit-codes.md.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringP("output", "o", "text", "what to print: text or json")
	if err := root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined two lines above
	}
	root.AddCommand(
		NewRunCommand(), NewSealCommand(), NewPsCommand(), NewLogsCommand(), NewExecCommand(), NewStopCommand(),
		NewGuestCommand(), NewMeasureCommand(), NewImageCommand(), NewSecretCommand(), NewExplainCommand(),
		NewVerifyCommand(), NewNamespaceCommand(), NewReferenceValuesCommand(), NewPolicyCommand(), NewResourcePolicyCommand(), NewAuditCommand(), NewCollateralCommand(), NewRootCommand(), NewAnchorCommand(),
		NewCredentialCommand(), NewTokenKeyCommand(), NewIdentityCommand(), NewSGXCommand(), NewSEVCommand(),
	)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return Exit(ExitUsage, err) })
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		switch o := Output(cmd); o {
		case "text", "json":
			return nil
		default:
			return Exit(ExitUsage, fmt.Errorf("--output %q: use text or json", o))
		}
	}
	return root
}

// Output gives the value of --output: "text" or "json".
func Output(cmd *cobra.Command) string {
	o, err := cmd.Flags().GetString("output")
	if err != nil {
		return "text"
	}
	return o
}

// PrintJSON writes v as one indented JSON document.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
