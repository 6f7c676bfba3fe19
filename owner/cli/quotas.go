package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

func quotaCommand() *cobra.Command {
	cmd := onTrustee("quota NAME [LIMIT=N]...", "Give a namespace limits of its own, in the place of those that the trustee has for each (docs/trustee.md)", quotaArgs,
		func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error) {
			n := c.Namespace(args[0])
			out, err := n.Describe(cmd.Context())
			if err != nil {
				return nil, err
			}
			quotas, err := changedQuotas(out.Quotas, args[1:])
			if err != nil {
				return nil, Exit(ExitUsage, err)
			}
			if len(args) > 1 {
				if out, err = n.SetQuotas(cmd.Context(), quotas); err != nil {
					return nil, err
				}
			}
			return quotaTable(out), nil
		})
	cmd.Long = cmd.Short + ".\n\nLIMIT=default takes a limit back to the trustee's. Without any the namespace's are listed. What is there already stays when a limit is lowered.\n" +
		"It takes a role that holds for the whole trustee: a namespace's own owner cannot raise them."
	cmd.Example = "  coffer namespace quota team-a secrets=500 sessions=2000\n  coffer namespace quota team-a sessions=default"
	return cmd
}

func quotaArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return Exit(ExitUsage, fmt.Errorf("%s needs the namespace's name", cmd.CommandPath()))
	}
	return nil
}

// changedQuotas applies LIMIT=N and LIMIT=default. Which limits there are the trustee says.
func changedQuotas(have map[string]int, changes []string) (map[string]int, error) {
	out := maps.Clone(have)
	if out == nil {
		out = map[string]int{}
	}
	for _, c := range changes {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%.80q is not LIMIT=N or LIMIT=default", c)
		}
		if value == "default" {
			delete(out, name)
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%s: %.20q is neither a number of at least 1 nor default", name, value)
		}
		out[name] = n
	}
	return out, nil
}

func quotaTable(n *trusteeapi.Namespace) table {
	t := table{head: []string{"LIMIT", "OF NAMESPACE " + n.Name}, doc: n}
	for _, name := range slices.Sorted(maps.Keys(n.Quotas)) {
		t.rows = append(t.rows, []string{name, strconv.Itoa(n.Quotas[name])})
	}
	return t
}
