package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// newCollateralExport writes what a trustee has into a bundle, for one that cannot
// fetch.
func newCollateralExport() *cobra.Command {
	var prefix string
	cmd := onTrustee("export FILE", "Write what the trustee has into a bundle, for another one without a network; - is the standard output", exactArgs(1, "the bundle's file"),
		func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error) {
			b, err := c.ExportCollateral(cmd.Context(), prefix)
			if err != nil {
				return nil, err
			}
			if args[0] == "-" {
				_, err := cmd.OutOrStdout().Write(b)
				return nil, err
			}
			if err := os.WriteFile(args[0], b, 0o644); err != nil {
				return nil, Exit(ExitInput, err)
			}
			if Output(cmd) == "json" {
				return map[string]any{"file": args[0], "bytes": len(b)}, nil
			}
			return fmt.Sprintf("%d bytes in %s", len(b), args[0]), nil
		})
	cmd.Example = `  coffer collateral export collateral.json
  coffer collateral export --origin-prefix https://kdsintf.amd.com/ amd.json`
	cmd.Flags().StringVar(&prefix, "origin-prefix", "", "only items whose origin begins so")
	return cmd
}

// newCollateralStatus tells what is out of date, missing and wanted.
func newCollateralStatus() *cobra.Command {
	return onTrustee("status", "Say what is out of date, missing or wanted, and how fetching it goes", noArgs,
		func(cmd *cobra.Command, c *trusteeclient.Client, _ []string) (any, error) {
			s, err := c.CollateralStatus(cmd.Context())
			if err != nil {
				return nil, err
			}
			return statusTable(s), nil
		})
}

// newCollateralWant has documents fetched that no evidence asked for, such as the
// certificates of chips that attest to a trustee without a network.
func newCollateralWant() *cobra.Command {
	cmd := onTrustee("want ORIGIN...", "Have chips' certificates or platforms' TCB information fetched, by the origins that a denial names", cobra.MinimumNArgs(1),
		func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error) {
			s, err := c.WantCollateral(cmd.Context(), args)
			if err != nil {
				return nil, err
			}
			return statusTable(s), nil
		})
	cmd.Example = `  coffer explain RECORD    # names the origin that was missing
  coffer collateral want 'https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=90c06f000000'`
	return cmd
}

func statusTable(s *trusteeapi.CollateralStatus) table {
	t := table{head: []string{"STATE", "UNTIL", "TRIED", "NEXT", "ORIGIN", "ERROR"}, doc: s}
	for _, v := range s.Vendors {
		state := "asked"
		if v.Failures > 0 {
			state = fmt.Sprintf("failed %d times", v.Failures)
		}
		t.rows = append(t.rows, []string{state, "-", "-", day(v.Next), v.Place, v.Error})
	}
	for _, l := range [][]trusteeapi.CollateralState{s.Items, s.Wanted} {
		for _, i := range l {
			t.rows = append(t.rows, []string{stateOf(i), day(i.Until), day(i.Tried), day(i.Next), i.Origin, i.Error})
		}
	}
	return t
}

func stateOf(i trusteeapi.CollateralState) string {
	switch {
	case !i.Since.IsZero():
		return "wanted"
	case i.Missing:
		return "missing"
	case i.Expired:
		return "EXPIRED"
	}
	return "current"
}
