package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/tee/policy"
)

// trialFlags choose the recorded attestations that a policy is tried on.
type trialFlags struct {
	records []string
	limit   int
}

func (f *trialFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.records, "record", nil, "id of a recorded attestation, as in coffer explain (repeatable; default: the newest ones)")
	cmd.Flags().IntVar(&f.limit, "limit", 20, "how many of the newest, at most 100")
}

func newPolicyTest() *cobra.Command {
	var f trialFlags
	cmd := inNamespace("test NAME FILE", "Say what a policy would make of attestations that are recorded; nothing is changed", exactArgs(2, "a name and a file"),
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			b, err := readFile(args[1], cmd.InOrStdin(), policy.MaxSize)
			if err != nil {
				return nil, Exit(ExitInput, err)
			}
			l, err := n.TestPolicy(cmd.Context(), trusteeapi.PolicyTest{
				Kind: trusteeapi.TestAttestation, Name: args[0], Text: string(b), Records: f.records, Limit: f.limit,
			})
			return verdicts(l), err
		})
	f.add(cmd)
	return cmd
}

func newPolicyVersions() *cobra.Command {
	return inNamespace("versions NAME", "List the versions of a policy, the newest first", exactArgs(1, "the policy's name"),
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			l, err := n.PolicyVersions(cmd.Context(), args[0])
			t := table{head: []string{"VERSION", "DIGEST", "REGISTERED", "BY"}, doc: l}
			for _, p := range l {
				t.rows = append(t.rows, []string{strconv.FormatUint(p.Version, 10), fmt.Sprintf("%.19s", p.Digest), day(p.Registered), fmt.Sprintf("%.12s", p.Actor)})
			}
			return t, err
		})
}

func newPolicyGet() *cobra.Command {
	var version uint64
	cmd := inNamespace("get NAME", "Print a policy's text", exactArgs(1, "the policy's name"), func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
		p, err := n.PolicyVersion(cmd.Context(), args[0], version)
		if err != nil {
			return nil, err
		}
		if Output(cmd) == "json" {
			return p, nil
		}
		return strings.TrimSuffix(p.Text, "\n"), nil
	})
	cmd.Flags().Uint64Var(&version, "version", 0, "a version of it (default: what is in force)")
	return cmd
}

func newPolicyUse() *cobra.Command {
	return inNamespace("use ID", "Judge evidence by the policies <ID>_cpu, <ID>_gpu, ...; default: the default ones", exactArgs(1, "the policies' id"),
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			out, err := n.SetAppraisalPolicy(cmd.Context(), args[0])
			if err != nil {
				return nil, err
			}
			return namespaces([]trusteeapi.Namespace{*out}), nil
		})
}

// NewResourcePolicyCommand manages resource policies.
func NewResourcePolicyCommand() *cobra.Command {
	p := trusteeapi.ResourcePolicy{}
	set := inNamespace("set NAME FILE", "Register a policy in Rego that narrows what bindings allow", exactArgs(2, "a name and a file"),
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			b, err := readFile(args[1], cmd.InOrStdin(), policy.MaxSize)
			if err != nil {
				return nil, Exit(ExitInput, err)
			}
			p.Name, p.Text = args[0], string(b)
			if err := p.Check(); err != nil {
				return nil, Exit(ExitUsage, err)
			}
			out, err := n.SetResourcePolicy(cmd.Context(), p)
			if err != nil {
				return nil, err
			}
			return resourcePolicies([]trusteeapi.ResourcePolicy{*out}), nil
		})
	set.Flags().StringVar(&p.Resources, "resources", "*", "what it is asked about: *, or repository[/type[/tag]]")
	set.Flags().StringSliceVar(&p.Methods, "methods", []string{trusteeapi.MethodGet}, "GET (a guest reads), PUT, DELETE (an administrator changes)")

	var version uint64
	show := inNamespace("get NAME", "Print a resource policy's text", exactArgs(1, "the policy's name"), func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
		p, err := n.ResourcePolicy(cmd.Context(), args[0], version)
		if err != nil {
			return nil, err
		}
		if Output(cmd) == "json" {
			return p, nil
		}
		return strings.TrimSuffix(p.Text, "\n"), nil
	})
	show.Flags().Uint64Var(&version, "version", 0, "a version of it (default: what is in force)")

	var f trialFlags
	var resource, method string
	try := inNamespace("test NAME FILE --resource NAME", "Say what a resource policy would allow the TEEs of recorded attestations; nothing is changed", exactArgs(2, "a name and a file"),
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			b, err := readFile(args[1], cmd.InOrStdin(), policy.MaxSize)
			if err != nil {
				return nil, Exit(ExitInput, err)
			}
			l, err := n.TestPolicy(cmd.Context(), trusteeapi.PolicyTest{
				Kind: trusteeapi.TestResource, Name: args[0], Text: string(b), Resource: strings.TrimPrefix(resource, "kbs:///"), Method: method, Records: f.records, Limit: f.limit,
			})
			return verdicts(l), err
		})
	f.add(try)
	try.Flags().StringVar(&resource, "resource", "", "the secret that is asked for")
	try.Flags().StringVar(&method, "method", trusteeapi.MethodGet, "what is done with it")
	if err := try.MarkFlagRequired("resource"); err != nil {
		panic(err) // the flag is defined above
	}

	return group("resource-policy", "Manage policies that decide, beside the bindings, who may have which secret", set, show, try,
		inNamespace("ls", "List resource policies", noArgs, func(cmd *cobra.Command, n *trusteeclient.Namespaced, _ []string) (any, error) {
			l, err := n.ListResourcePolicies(cmd.Context())
			return resourcePolicies(l), err
		}),
		inNamespace("versions NAME", "List the versions of a resource policy, the newest first", exactArgs(1, "the policy's name"),
			func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
				l, err := n.ResourcePolicyVersions(cmd.Context(), args[0])
				return resourcePolicies(l), err
			}),
		inNamespace("rm NAME", "Take a resource policy out of force; its versions stay", exactArgs(1, "the policy's name"),
			func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
				return args[0], n.DeleteResourcePolicy(cmd.Context(), args[0])
			}))
}

func resourcePolicies(l []trusteeapi.ResourcePolicy) table {
	t := table{head: []string{"NAME", "VERSION", "RESOURCES", "METHODS", "DIGEST", "REGISTERED", "BY"}, doc: l}
	for _, p := range l {
		t.rows = append(t.rows, []string{
			p.Name, strconv.FormatUint(p.Version, 10), p.Resources, strings.Join(p.Methods, ","), fmt.Sprintf("%.19s", p.Digest), day(p.Registered), fmt.Sprintf("%.12s", p.Actor),
		})
	}
	return t
}

func verdicts(l []trusteeapi.PolicyVerdict) table {
	t := table{head: []string{"RECORD", "TIME", "DEVICE", "TEE", "RECORDED", "WOULD BE", "BECAUSE"}, doc: l}
	for _, v := range l {
		why := v.Error
		for _, f := range v.Findings {
			if why != "" {
				why += "; "
			}
			why += strings.TrimSpace(f.Claim + " " + f.Field)
		}
		if v.Incomplete {
			why = strings.TrimPrefix(why+"; large claims are recorded by digest only", "; ")
		}
		t.rows = append(t.rows, []string{v.Record, v.Time.Local().Format(time.DateTime), v.Submod, v.TEE, v.Before, v.After, why})
	}
	return t
}
