package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/run"
	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/policy"
)

// group makes a command that only has others below it.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(subs...)
	return cmd
}

// inNamespace makes a command on one namespace of the trustee. do gives what is
// printed: a document for --output json, a table for people.
func inNamespace(use, short string, args cobra.PositionalArgs, do func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error)) *cobra.Command {
	var o run.TrusteeOptions
	namespace := trusteeapi.DefaultNamespace
	cmd := &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
		t, err := openTrustee(cmd, o)
		if err != nil {
			return err
		}
		defer t.Release()
		out, err := do(cmd, t.Client.Namespace(namespace), args)
		if err != nil {
			return err
		}
		return printAnswer(cmd, out)
	}}
	addTrusteeFlags(cmd, &o)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", namespace, "namespace of the trustee")
	return cmd
}

// onTrustee is inNamespace for what is not of one namespace.
func onTrustee(use, short string, args cobra.PositionalArgs, do func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error)) *cobra.Command {
	var o run.TrusteeOptions
	cmd := &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
		t, err := openTrustee(cmd, o)
		if err != nil {
			return err
		}
		defer t.Release()
		out, err := do(cmd, t.Client, args)
		if err != nil {
			return err
		}
		return printAnswer(cmd, out)
	}}
	addTrusteeFlags(cmd, &o)
	return cmd
}

// table is what a list looks like to people, beside its document.
type table struct {
	head []string
	rows [][]string
	doc  any
}

func printAnswer(cmd *cobra.Command, out any) error {
	w := cmd.OutOrStdout()
	t, isTable := out.(table)
	switch {
	case out == nil:
		return nil
	case Output(cmd) == "json":
		if isTable {
			out = t.doc
		}
		return PrintJSON(w, out)
	case isTable:
		tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		fmt.Fprintln(tw, strings.Join(t.head, "\t"))
		for _, r := range t.rows {
			fmt.Fprintln(tw, strings.Join(r, "\t"))
		}
		return tw.Flush()
	}
	_, err := fmt.Fprintln(w, out)
	return err
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

// NewNamespaceCommand manages namespaces.
func NewNamespaceCommand() *cobra.Command {
	var n trusteeapi.Namespace
	create := onTrustee("create NAME", "Make a namespace; what it is, it is for good", exactArgs(1, "the namespace's name"),
		func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error) {
			n.Name = args[0]
			out, err := c.CreateNamespace(cmd.Context(), n)
			if err != nil {
				return nil, err
			}
			return namespaces([]trusteeapi.Namespace{*out}), nil
		})
	create.Flags().BoolVar(&n.Simulated, "simulated", false, "for simulated hardware, which proves nothing")
	create.Flags().BoolVar(&n.InsecureAllowDebug, "insecure-allow-debug", false, "give secrets to debug guests, whatever the policy says of their configuration")
	return group("namespace", "Manage the trustee's namespaces", create, removeNamespace(),
		onTrustee("ls", "List namespaces", noArgs, func(cmd *cobra.Command, c *trusteeclient.Client, _ []string) (any, error) {
			l, err := c.ListNamespaces(cmd.Context())
			return namespaces(l), err
		}),
		onTrustee("allow-unproven NAME [VERIFIER...]", "Say which verifiers count although no outside vector has shown them to be right; none: none", cobra.MinimumNArgs(1),
			func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error) {
				out, err := c.Namespace(args[0]).AllowUnproven(cmd.Context(), args[1:])
				if err != nil {
					return nil, err
				}
				return namespaces([]trusteeapi.Namespace{*out}), nil
			}),
		quotaCommand(),
		onTrustee("channel-binding NAME required|optional", "Say whether evidence must cover the TLS connection that brings it (docs/trustee/identity.md)", exactArgs(2, "the namespace's name, and required or optional"),
			func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error) {
				if args[1] != bindingRequired && args[1] != bindingOptional {
					return nil, Exit(ExitUsage, fmt.Errorf("%q is neither %s nor %s", args[1], bindingRequired, bindingOptional))
				}
				out, err := c.Namespace(args[0]).SetChannelBinding(cmd.Context(), args[1] == bindingRequired)
				if err != nil || Output(cmd) == "json" {
					return out, err
				}
				return "namespace " + out.Name + ": channel binding is " + args[1], nil
			}))
}

const bindingRequired, bindingOptional = "required", "optional"

func removeNamespace() *cobra.Command {
	var confirm string
	var destroy bool
	cmd := onTrustee("rm NAME", "Delete a namespace with all that it holds, for good, in two steps", exactArgs(1, "the namespace's name"),
		func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error) {
			if confirm == "" && destroy {
				return nil, Exit(ExitUsage, errors.New("--destroy-secrets goes with --confirm, which the first step gives"))
			}
			out, err := c.DeleteNamespace(cmd.Context(), args[0], confirm, destroy)
			if err != nil || out == nil {
				return args[0], err
			}
			if Output(cmd) == "json" {
				return out, nil
			}
			more := ""
			if out.Secrets > 0 {
				more = " --destroy-secrets"
			}
			return fmt.Sprintf("namespace %s holds %d secrets. Nothing is deleted yet. Until %s:\n  coffer namespace rm %s --confirm %s%s",
				out.Namespace, out.Secrets, out.Expires.Local().Format(time.TimeOnly), out.Namespace, out.Confirm, more), nil
		})
	cmd.Flags().StringVar(&confirm, "confirm", "", "the word that the first step gave")
	cmd.Flags().BoolVar(&destroy, "destroy-secrets", false, "although there are secrets in it, which are then lost")
	return cmd
}

func namespaces(l []trusteeapi.Namespace) table {
	t := table{head: []string{"NAMESPACE", "KIND", "DEBUG", "UNPROVEN", "CREATED"}, doc: l}
	for _, n := range l {
		kind, debug := "production", "refused"
		if n.Simulated {
			kind = "SIMULATED"
		}
		if n.InsecureAllowDebug {
			debug = "ALLOWED"
		}
		t.rows = append(t.rows, []string{n.Name, kind, debug, strings.Join(n.AllowUnproven, ","), day(n.Created)})
	}
	return t
}

// NewReferenceValuesCommand manages reference values.
func NewReferenceValuesCommand() *cobra.Command {
	return group("reference-values", "Manage what the trustee expects to be measured",
		inNamespace("put NAME FILE", "Register a bundle or a CoRIM, signed or not, or a signed SWID tag, under a name; another one of that name is replaced", exactArgs(2, "a name and a file"),
			func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
				b, err := readFile(args[1], cmd.InOrStdin(), refvalue.MaxSize)
				if err != nil {
					return nil, Exit(ExitInput, err)
				}
				v, err := n.RegisterReferenceValues(cmd.Context(), args[0], b)
				if err != nil {
					return nil, err
				}
				return references([]trusteeapi.ReferenceValues{*v}), nil
			}),
		inNamespace("ls", "List bundles and manifests: who signed and registered them, and until when they count", noArgs, func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			l, err := n.ListReferenceValues(cmd.Context())
			return references(l), err
		}),
		inNamespace("rm NAME", "Remove a bundle", exactArgs(1, "the bundle's name"), func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			return args[0], n.DeleteReferenceValues(cmd.Context(), args[0])
		}))
}

func references(l []trusteeapi.ReferenceValues) table {
	t := table{head: []string{"NAME", "FORMAT", "SETS", "VALUES", "DOCUMENT", "SIGNED BY", "EXPIRES", "REGISTERED", "BY"}, doc: l}
	for _, v := range l {
		by := "nobody"
		if v.SignedBy != "" {
			by = fmt.Sprintf("%.17s", v.SignedBy)
		}
		format := v.Format
		if format == "" {
			format = "bundle"
		}
		t.rows = append(t.rows, []string{
			v.Name, format, fmt.Sprint(v.Sets), fmt.Sprint(v.Values), fmt.Sprintf("%.12s", v.ID), by, day(v.Expires), day(v.Registered), fmt.Sprintf("%.24s", v.Actor),
		})
	}
	return t
}

// NewPolicyCommand manages appraisal policies.
func NewPolicyCommand() *cobra.Command {
	return group("policy", "Manage the policies that appraise evidence",
		inNamespace("set NAME FILE", "Register a policy in Rego, named <id>_<class>, such as default_cpu", exactArgs(2, "a name and a file"),
			func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
				b, err := readFile(args[1], cmd.InOrStdin(), policy.MaxSize)
				if err != nil {
					return nil, Exit(ExitInput, err)
				}
				p, err := n.SetPolicy(cmd.Context(), args[0], string(b))
				if err != nil {
					return nil, err
				}
				return policies([]trusteeapi.Policy{*p}), nil
			}),
		inNamespace("ls", "List policies, with the embedded ones that are in force", noArgs, func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			l, err := n.ListPolicies(cmd.Context())
			return policies(l), err
		}),
		newPolicyGet(), newPolicyVersions(), newPolicyTest(), newPolicyUse(),
		inNamespace("rm NAME", "Remove a policy; the embedded one of that name takes its place", exactArgs(1, "the policy's name"),
			func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
				return args[0], n.DeletePolicy(cmd.Context(), args[0])
			}))
}

func policies(l []trusteeapi.Policy) table {
	t := table{head: []string{"NAME", "VERSION", "DIGEST", "ORIGIN", "REGISTERED"}, doc: l}
	for _, p := range l {
		origin, version := "this namespace", "-"
		if p.Version != 0 {
			version = strconv.FormatUint(p.Version, 10)
		}
		if p.Embedded {
			origin = "embedded"
		}
		t.rows = append(t.rows, []string{p.Name, version, fmt.Sprintf("%.19s", p.Digest), origin, day(p.Registered)})
	}
	return t
}

// NewCollateralCommand manages collateral.
func NewCollateralCommand() *cobra.Command {
	var origin string
	add := onTrustee("import FILE", "Give the trustee a bundle; items older than those it has are not taken", exactArgs(1, "the bundle"),
		func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error) {
			b, err := readFile(args[0], cmd.InOrStdin(), collateral.MaxBundle)
			if err == nil && origin != "" {
				b, err = bundleOf(origin, b)
			}
			if err != nil {
				return nil, Exit(ExitInput, err)
			}
			r, err := c.ImportCollateral(cmd.Context(), b)
			if err != nil || Output(cmd) == "json" {
				return r, err
			}
			return fmt.Sprintf("%d items taken, %d older than those at hand", r.Taken, r.Older), nil
		})
	add.Flags().StringVar(&origin, "origin", "", "FILE is no bundle but the document that is published at this URL, such as a TPM maker's revocation list (DER)")
	return group("collateral", "Manage certificates, revocation lists and TCB information that verifiers need", add, newCollateralExport(), newCollateralStatus(), newCollateralWant(),
		onTrustee("ls", "List items", noArgs, func(cmd *cobra.Command, c *trusteeclient.Client, _ []string) (any, error) {
			l, err := c.ListCollateral(cmd.Context())
			t := table{head: []string{"ORIGIN", "BYTES", "FETCHED"}, doc: l}
			for _, i := range l {
				t.rows = append(t.rows, []string{i.Origin, fmt.Sprint(i.Size), day(i.Fetched)})
			}
			return t, err
		}),
		onTrustee("rm ORIGIN", "Remove an item", exactArgs(1, "the item's origin"), func(cmd *cobra.Command, c *trusteeclient.Client, args []string) (any, error) {
			return args[0], c.DeleteCollateral(cmd.Context(), args[0])
		}))
}

// bundleOf makes a bundle of one document, which was fetched just now. Items are
// named by https, however their vendor spells the URL.
func bundleOf(origin string, body []byte) ([]byte, error) {
	if rest, ok := strings.CutPrefix(origin, "http://"); ok {
		origin = "https://" + rest
	}
	b, err := collateral.NewSet(&collateral.Item{Origin: origin, Body: body, Fetched: time.Now().UTC().Truncate(time.Second)}).Encode()
	if err != nil {
		return nil, err
	}
	_, err = collateral.Parse(b) // what the trustee would refuse is refused here, with its name
	return b, err
}

// NewRootCommand manages roots.
func NewRootCommand() *cobra.Command {
	var tee string
	add := inNamespace("add FILE", "Register a root of simulated hardware (simulated namespaces), or of TPM endorsement keys (production)", exactArgs(1, "the certificate in PEM"),
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			certs, err := readCerts(args)
			if err != nil {
				return nil, Exit(ExitInput, err)
			}
			var l []trusteeapi.EKRoot
			for _, c := range certs {
				r, err := n.AddRoot(cmd.Context(), tee, c)
				if err != nil {
					return nil, err
				}
				l = append(l, *r)
			}
			return roots(l), nil
		})
	add.Flags().StringVar(&tee, "tee", "", "the one TEE that the root counts for, in a simulated namespace (default: all)")
	return group("root", "Manage roots of simulated hardware and of TPMs", add,
		inNamespace("ls", "List roots", noArgs, func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			l, err := n.ListRoots(cmd.Context())
			return roots(l), err
		}),
		inNamespace("rm ID", "Remove a root", exactArgs(1, "the root's id"), func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			return args[0], n.DeleteRoot(cmd.Context(), args[0])
		}))
}

func roots(l []trusteeapi.EKRoot) table {
	t := table{head: []string{"ID", "TEE", "SUBJECT", "REGISTERED"}, doc: l}
	for _, r := range l {
		t.rows = append(t.rows, []string{r.ID, r.TEE, r.Subject, day(r.Registered)})
	}
	return t
}

// NewAnchorCommand manages documents of trust anchors.
func NewAnchorCommand() *cobra.Command {
	return group("anchor", "Manage documents that a TEE's verifier needs in production, such as the keys of CCA platforms",
		inNamespace("put TEE NAME FILE", "Register a document", exactArgs(3, "TEE, name and file"), func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			b, err := readFile(args[2], cmd.InOrStdin(), 1<<20)
			if err != nil {
				return nil, Exit(ExitInput, err)
			}
			a, err := n.SetAnchor(cmd.Context(), args[0], args[1], b)
			if err != nil {
				return nil, err
			}
			return anchors([]trusteeapi.Anchor{*a}), nil
		}),
		inNamespace("ls", "List documents", noArgs, func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			l, err := n.ListAnchors(cmd.Context())
			return anchors(l), err
		}),
		inNamespace("rm TEE NAME", "Remove a document", exactArgs(2, "TEE and name"), func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			return args[0] + "/" + args[1], n.DeleteAnchor(cmd.Context(), args[0], args[1])
		}))
}

func anchors(l []trusteeapi.Anchor) table {
	t := table{head: []string{"TEE", "NAME", "SHA-256", "BYTES", "REGISTERED"}, doc: l}
	for _, a := range l {
		t.rows = append(t.rows, []string{a.TEE, a.Name, fmt.Sprintf("%.16s", a.SHA256), fmt.Sprint(a.Size), day(a.Registered)})
	}
	return t
}
