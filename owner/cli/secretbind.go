package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

func newSecretBind() *cobra.Command {
	var f secretFlags
	var seals, digests []string
	cmd := &cobra.Command{
		Use:   "bind NAME --for SEAL",
		Short: "Bind a secret that is there already to a sealed pod",
		Long: `Say who may have a secret that the trustee holds already, such as one that
coffer-trustee import brought over. Its content and version stay as they are, and so
does what it was bound to before.`,
		Example: `  coffer secret bind default/db/password --for 3f9a...`,
		Args:    exactArgs(1, "the secret's name: repository/type/tag"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(seals)+len(digests) == 0 {
				return Exit(ExitInput, errors.New("neither --for nor --initdata says who may have the secret"))
			}
			t, err := f.open(cmd)
			if err != nil {
				return err
			}
			defer t.Release()
			n, ids, err := findSeals(cmd.Context(), t.Client, f.namespace, seals)
			if err != nil {
				return Exit(ExitInput, err)
			}
			b, err := n.Bind(cmd.Context(), args[0], trusteeapi.Binding{Seals: ids, Initdata: digests})
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(args[0], "kbs:///")
			if Output(cmd) == "json" {
				return PrintJSON(cmd.OutOrStdout(), map[string]any{"namespace": n.Name(), "resource": name, "binding": b})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "kbs:///%s (namespace %s): bound to %s\n", name, n.Name(), boundTo(b))
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringArrayVar(&seals, "for", nil, "seal of the pod that may have the secret: id, beginning of the id, or file (repeatable)")
	cmd.Flags().StringArrayVar(&digests, "initdata", nil, "initdata digest of the pod that may have the secret: sha256:..., sha384:..., sha512:... (repeatable; needs --namespace)")
	return cmd
}
