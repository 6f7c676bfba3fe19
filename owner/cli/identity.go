package cli

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// NewIdentityCommand manages what attested guests are called.
func NewIdentityCommand() *cobra.Command {
	return group("identity", "Manage SPIFFE identities of attested pods (docs/trustee/identity.md)",
		inNamespace("trust-domain DOMAIN", "Name the namespace's trust domain, once and for good", exactArgs(1, "the trust domain, such as prod.example.org"),
			func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
				ns, err := n.SetTrustDomain(cmd.Context(), args[0])
				if err != nil || Output(cmd) == "json" {
					return ns, err
				}
				return "namespace " + ns.Name + " has trust domain " + ns.TrustDomain, nil
			}),
		setIdentity(),
		inNamespace("ls", "List identities; coffer secret bind says who has one", noArgs, func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			l, err := n.ListIdentities(cmd.Context())
			return identities(l), err
		}),
		inNamespace("rm NAME", "Remove an identity and its binding; documents that are out count until they expire", exactArgs(1, "the identity's name"),
			func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
				return args[0], n.DeleteIdentity(cmd.Context(), args[0])
			}),
		inNamespace("authorities", "List the authorities in the bundle, the oldest first", noArgs, func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			l, err := n.ListIdentityAuthorities(cmd.Context())
			return authorities(l), err
		}),
		rotateAuthority())
}

func setIdentity() *cobra.Command {
	var i trusteeapi.Identity
	var life time.Duration
	cmd := inNamespace("set NAME", "Register an identity or replace it", exactArgs(1, "the identity's name"),
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			i.Name, i.LifeSeconds = args[0], int(life/time.Second)
			if err := i.Check(); err != nil {
				return nil, Exit(ExitUsage, err)
			}
			out, err := n.PutIdentity(cmd.Context(), i)
			if err != nil || Output(cmd) == "json" {
				return out, err
			}
			return identities([]trusteeapi.Identity{*out}), nil
		})
	cmd.Long = `Register what a pod is called. Nobody has it until it is bound to a sealed pod, as a
secret is: coffer secret bind identity/svid/NAME --for SEAL.`
	cmd.Example = `  coffer identity set web --path /ns/prod/web --audience https://db.example.org`
	cmd.Flags().StringVar(&i.Path, "path", "", "path of the SPIFFE id, such as /ns/prod/web")
	cmd.Flags().DurationVar(&life, "life", trusteeapi.DefaultIdentityLife, "how long a certificate counts, from 1m to 1h")
	cmd.Flags().StringArrayVar(&i.Audiences, "audience", nil, "audience for which tokens are given (repeatable; default: there are no tokens)")
	if err := cmd.MarkFlagRequired("path"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func identities(l []trusteeapi.Identity) table {
	t := table{head: []string{"NAME", "SPIFFE ID", "LIFE", "AUDIENCES", "BIND AS"}, doc: l}
	for _, i := range l {
		t.rows = append(t.rows, []string{i.Name, i.ID, i.Life().String(), strings.Join(i.Audiences, ","), i.Resource})
	}
	return t
}

func rotateAuthority() *cobra.Command {
	var o trusteeapi.TokenKeyRotation
	cmd := inNamespace("rotate", "Have identities signed by a new authority; what older ones have signed counts until it expires", noArgs,
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			a, err := n.RotateIdentityAuthority(cmd.Context(), o)
			if err != nil || Output(cmd) == "json" {
				return a, err
			}
			return authorities([]trusteeapi.IdentityAuthority{*a}), nil
		})
	cmd.Flags().BoolVar(&o.Compromised, "compromised", false, "the older authorities leave the bundle now, and the new one signs at once")
	return cmd
}

func authorities(l []trusteeapi.IdentityAuthority) table {
	t := table{head: []string{"ID", "MADE", "SIGNS", "UNTIL"}, doc: l}
	for _, a := range l {
		t.rows = append(t.rows, []string{a.ID[:min(len(a.ID), 16)], day(a.Made), day(a.Signs), day(a.Until)})
	}
	return t
}
