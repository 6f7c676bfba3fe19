package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// NewCredentialCommand manages who may administrate the trustee.
func NewCredentialCommand() *cobra.Command {
	return group("credential", "Manage who may do what at the trustee (docs/trustee/roles.md)", addCredential(),
		onTrustee("ls", "List credentials of the namespaces that you may look into", noArgs, func(cmd *cobra.Command, c *trusteeclient.Client, _ []string) (any, error) {
			l, err := c.ListCredentials(cmd.Context())
			return credentials(l), err
		}),
		removeCredential(),
		onTrustee("whoami", "Say who the trustee takes you for, and what you may do", noArgs, func(cmd *cobra.Command, c *trusteeclient.Client, _ []string) (any, error) {
			w, err := c.Whoami(cmd.Context())
			if err != nil {
				return nil, err
			}
			t := table{head: []string{"WHO", "GRANT"}, doc: w}
			for _, g := range w.Grants {
				t.rows = append(t.rows, []string{w.Actor, spell(g)})
			}
			return t, nil
		}))
}

func removeCredential() *cobra.Command {
	var given bool
	cmd := onTrustee("rm ID", "Take a credential back: it counts no more from now on", exactArgs(1, "the credential's id"),
		func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error) {
			out, err := c.DeleteCredential(cmd.Context(), args[0], given)
			if err != nil {
				return nil, err
			}
			for _, x := range out.Ended {
				fmt.Fprintf(cmd.ErrOrStderr(), "ended as well: %s %s %q\n", x.ID, x.Kind, x.Name)
			}
			for _, x := range out.Standing {
				fmt.Fprintf(cmd.ErrOrStderr(), "it had given, and this stands: %s %s %q (rm it, or rm %s --given)\n", x.ID, x.Kind, x.Name, args[0])
			}
			return args[0], nil
		})
	cmd.Flags().BoolVar(&given, "given", false, "take back as well what it has given to others, and what they have given; also when it is gone itself already")
	return cmd
}

func addCredential() *cobra.Command {
	x := trusteeapi.Credential{}
	var grants []string
	var keyFile string
	var life time.Duration
	cmd := onTrustee("add KIND", "Register a key, the name of a client certificate, a claim of an identity provider, or have a bearer token issued", exactArgs(1, "key, certificate, oidc or token"),
		func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error) {
			x.Kind = args[0]
			if (x.Kind == trusteeapi.CredentialKey) != (keyFile != "") || (x.Kind == trusteeapi.CredentialCertificate || x.Kind == trusteeapi.CredentialOIDC) != (x.Subject != "") {
				return nil, Exit(ExitUsage, errors.New("a key needs --public-key, a certificate and oidc --subject, and a token neither"))
			}
			for _, s := range grants {
				g, err := parseGrant(s)
				if err != nil {
					return nil, Exit(ExitUsage, err)
				}
				x.Grants = append(x.Grants, g)
			}
			if life > 0 {
				x.Expires = time.Now().Add(life).UTC().Truncate(time.Second)
			}
			if keyFile != "" {
				b, err := readFile(keyFile, cmd.InOrStdin(), maxKeyFile)
				if err != nil {
					return nil, Exit(ExitInput, err)
				}
				x.PublicKey = string(b)
			}
			out, err := c.AddCredential(cmd.Context(), x)
			if err != nil {
				return nil, err
			}
			if out.Token != "" && Output(cmd) != "json" {
				return out.Token, nil // alone, so that it can be put into a file
			}
			return credentialAnswer(cmd, out), nil
		})
	cmd.Example = `  coffer credential add token --grant secret-writer@prod --life 8h > prod.token && chmod 600 prod.token
  coffer credential add key --public-key alice.pub --grant owner@prod --grant auditor@staging
  coffer credential add certificate --subject uri:spiffe://example.org/ci --grant policy-admin@prod
  coffer credential add oidc --subject "https://idp.example.org groups=trustee-owners" --grant owner@prod`
	fl := cmd.Flags()
	fl.StringSliceVar(&grants, "grant", nil, "ROLE@NAMESPACE, or ROLE@* for all; may be repeated: admin, owner, secret-writer, policy-admin, auditor, reader")
	fl.StringVar(&x.Name, "name", "", "a name for people")
	fl.StringVar(&keyFile, "public-key", "", "file with the public key in PEM (Ed25519 or P-256), - for standard input")
	fl.StringVar(&x.Subject, "subject", "", "uri:, dns:, email: or cn: and the name in the client certificate; or the issuer, a space, and CLAIM=VALUE")
	fl.DurationVar(&life, "life", 0, "when it expires, from now (default: a token in a day, others never)")
	if err := cmd.MarkFlagRequired("grant"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

const maxKeyFile = 8 << 10

func credentialAnswer(cmd *cobra.Command, c *trusteeapi.Credential) any {
	if Output(cmd) == "json" {
		return c
	}
	return credentials([]trusteeapi.Credential{*c})
}

func parseGrant(s string) (g trusteeapi.Grant, err error) {
	role, ns, ok := strings.Cut(s, "@")
	if !ok {
		return g, fmt.Errorf("--grant %q is not ROLE@NAMESPACE", s)
	}
	g = trusteeapi.Grant{Role: trusteeapi.Role(role), Namespace: ns}
	if err := g.Check(); err != nil {
		return g, fmt.Errorf("--grant %q: %w", s, err)
	}
	return g, nil
}

func spell(g trusteeapi.Grant) string { return string(g.Role) + "@" + g.Namespace }

func credentials(l []trusteeapi.Credential) table {
	t := table{head: []string{"ID", "KIND", "NAME", "GRANTS", "EXPIRES", "BY"}, doc: l}
	for _, c := range l {
		var g []string
		for _, x := range c.Grants {
			g = append(g, spell(x))
		}
		name := c.Name
		if c.Subject != "" {
			name = strings.TrimSpace(name + " " + c.Subject)
		}
		t.rows = append(t.rows, []string{c.ID, c.Kind, name, strings.Join(g, ","), day(c.Expires), fmt.Sprintf("%.19s", c.CreatedBy)})
	}
	return t
}

// NewTokenKeyCommand manages the keys that sign attestation results.
func NewTokenKeyCommand() *cobra.Command {
	var o trusteeapi.TokenKeyRotation
	rotate := inNamespace("rotate", "Have attestation results signed by a new key; what older keys have signed counts until it expires", noArgs,
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			k, err := n.RotateTokenKey(cmd.Context(), o)
			if err != nil {
				return nil, err
			}
			if Output(cmd) == "json" {
				return k, nil
			}
			return tokenKeys([]trusteeapi.TokenKey{*k}), nil
		})
	rotate.Flags().BoolVar(&o.Compromised, "compromised", false, "the older keys, and all that they have signed, count no more from now on")
	return group("token-key", "Manage the keys that sign a namespace's attestation results (docs/trustee/keys.md)", rotate,
		inNamespace("ls", "List the keys that count, the oldest first", noArgs, func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			l, err := n.ListTokenKeys(cmd.Context())
			return tokenKeys(l), err
		}))
}

func tokenKeys(l []trusteeapi.TokenKey) table {
	when := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Local().Format(time.DateTime)
	}
	t := table{head: []string{"ID", "MADE", "SIGNS FROM", "COUNTS UNTIL"}, doc: l}
	for _, k := range l {
		t.rows = append(t.rows, []string{k.ID, when(k.Made), when(k.Signs), when(k.Until)})
	}
	return t
}
