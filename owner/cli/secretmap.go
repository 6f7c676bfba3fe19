package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// mapped is how secrets that live outside look to people.
func mapped(ns string, l []trusteeapi.OutsideSecret) table {
	t := table{head: []string{"NAMESPACE", "NAME", "STORE", "SOURCE", "FIELD", "VERSION", "BOUND TO"}, doc: l}
	for _, m := range l {
		t.rows = append(t.rows, []string{ns, m.Name, m.Store, m.Source, orDash(m.Field), orDash(m.Version), boundTo(m.Binding)})
	}
	return t
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newSecretMap() *cobra.Command {
	var m trusteeapi.OutsideSecret
	var seals []string
	var base64 bool
	cmd := inNamespace("map NAME --store STORE --source NAME-IN-STORE", "Say in which store outside of the trustee a secret lives; it is fetched when a pod may have it", exactArgs(1, "the secret's name: repository/type/tag"),
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			if base64 {
				m.Encoding = trusteeapi.EncodingBase64
			}
			var ids []string
			if len(seals) > 0 {
				var err error
				if _, ids, err = findSeals(cmd.Context(), n.Client(), n.Name(), seals); err != nil {
					return nil, Exit(ExitInput, err)
				}
			}
			out, err := n.MapSecret(cmd.Context(), args[0], m)
			if err != nil {
				return nil, err
			}
			if len(ids) > 0 {
				if out.Binding, err = n.Bind(cmd.Context(), args[0], trusteeapi.Binding{Seals: ids}); err != nil {
					return nil, err
				}
			}
			return mapped(n.Name(), []trusteeapi.OutsideSecret{*out}), nil
		})
	fl := cmd.Flags()
	fl.StringVar(&m.Store, "store", "", "the store, as coffer secret stores calls it")
	fl.StringVar(&m.Source, "source", "", "what the secret is called there")
	fl.StringVar(&m.Field, "field", "", "which field of it, in stores whose secrets have several")
	fl.StringVar(&m.Version, "version", "", "which version, as the store spells it (default: the current one)")
	fl.BoolVar(&base64, "base64", false, "the store has it in base64; pods get the bytes")
	fl.StringArrayVar(&seals, "for", nil, "seal of the pod that may have the secret: id, beginning of the id, or file (repeatable)")
	for _, f := range []string{"store", "source"} {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return cmd
}

func newSecretMapped() *cobra.Command {
	return inNamespace("mapped", "List the secrets that live in stores outside of the trustee, never their content", noArgs,
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			l, err := n.ListMapped(cmd.Context())
			return mapped(n.Name(), l), err
		})
}

// unmapped says that nobody knows any more where a secret lives.
type unmapped struct {
	Namespace string `json:"namespace"`
	Name      string `json:"unmapped"`
}

// String is the line for people.
func (u unmapped) String() string {
	return fmt.Sprintf("kbs:///%s: mapped to no store (namespace %s)", u.Name, u.Namespace)
}

func newSecretUnmap() *cobra.Command {
	return inNamespace("unmap NAME", "Forget in which store a secret lives, and its binding; the store keeps it", exactArgs(1, "the secret's name: repository/type/tag"),
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			if err := n.UnmapSecret(cmd.Context(), args[0]); err != nil {
				return nil, err
			}
			return unmapped{n.Name(), strings.TrimPrefix(args[0], "kbs:///")}, nil
		})
}

func newSecretStores() *cobra.Command {
	return inNamespace("stores", "List the stores outside of the trustee that a namespace may map secrets to", noArgs,
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			l, err := n.ListSecretStores(cmd.Context())
			t := table{head: []string{"NAMESPACE", "STORE", "KIND", "NUMBERS VERSIONS"}, doc: l}
			for _, s := range l {
				t.rows = append(t.rows, []string{n.Name(), s.Name, s.Kind, fmt.Sprint(s.Numbered)})
			}
			return t, err
		})
}
