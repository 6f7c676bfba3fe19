package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/measure"
	"github.com/cofferproject/coffer/owner/run"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// NewExplainCommand shows a decision of the trustee in full.
func NewExplainCommand() *cobra.Command {
	var o run.TrusteeOptions
	cmd := &cobra.Command{
		Use:   "explain ID",
		Short: "Show why the trustee accepted or refused: measured, expected, and where the expectation comes from",
		Long: `Show one decision of the trustee in full. ID is the record that a denial names.
The guest and the host are told the record, the reason and the claim only; what
was measured and what was expected is for the owner.

Where a measurement of the launch was refused, coffer computes from the reference
values' launches, and from the usual platform's files, which input is another one.`,
		Example: "  coffer explain 5cb73c30a59b65bfa5d72a14c7677c65",
		Args:    exactArgs(1, "the record id that a denial names"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := openTrustee(cmd, o)
			if err != nil {
				return err
			}
			defer t.Release()
			r, err := t.Client.Attestation(cmd.Context(), strings.Trim(args[0], "[] "))
			if trusteeclient.IsNotFound(err) {
				return Exit(ExitInput, fmt.Errorf("the trustee has no record %s: it keeps the newest ones of each namespace", args[0]))
			}
			if err != nil {
				return err
			}
			x := &explainedRecord{r, run.ExplainRecord(cmd.Context(), t.Client, r)}
			if Output(cmd) == "json" {
				return PrintJSON(cmd.OutOrStdout(), x)
			}
			return x.print(cmd.OutOrStdout())
		},
	}
	addTrusteeFlags(cmd, &o)
	return cmd
}

// explainedRecord is a record, and beside it what coffer computes of the launch.
type explainedRecord struct {
	*trusteeapi.Record
	Launch *measure.Explanation `json:"launch,omitempty"`
}

// print writes a record for people: the verdict first, then who said so.
func (r *explainedRecord) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", denial.Printable(name), denial.Printable(value))
		}
	}
	row("decision", r.Outcome+" ("+r.Kind+")")
	if d := r.Denial; d != nil {
		row("reason", string(d.Reason))
		row("component", d.Component)
		row("claim", d.Claim)
		row("measured", d.Measured)
		row("expected", d.Expected)
		row("expected by", d.Source)
		row("detail", d.Detail)
	}
	row("resource", r.Resource)
	row("attestation", r.Attestation)
	tee := r.TEE
	if r.Simulated {
		tee += " (SIMULATED: proves nothing)"
	}
	row("TEE", tee)
	row("status", r.Status)
	row("vector", vector(r.Vector))
	row("initdata", r.Initdata)
	row("namespace", r.Namespace)
	row("peer", r.Peer)
	row("time", r.Time.Local().Format(time.RFC3339))
	row("record", r.ID)
	if r.Audited > 0 {
		row("audit record", fmt.Sprint(r.Audited))
	}
	for _, a := range r.Appraisals {
		row(a.Submod, fmt.Sprintf("%s: %s by policy %s", a.TEE, a.Status, a.Policy))
		for _, u := range a.Unproven {
			row("  UNPROVEN", u)
		}
		for _, c := range a.Checks {
			row("  checked "+c.What, strings.TrimSpace(shown(c.Found)+"  "+c.Source))
		}
		for _, f := range a.Findings {
			what := f.Field
			if what == "" {
				what = f.Condition
			}
			row(fmt.Sprintf("  not affirmed %s=%d", f.Claim, f.Value), fmt.Sprintf("%s: measured %s, expected %s (%s)", what, shown(f.Measured), shown(f.Expected), f.Source))
		}
		for _, l := range a.References {
			by := ""
			if l.SignedBy != "" {
				by = ", signed with key " + l.SignedBy
			}
			row("  values of a launch", l.Bundle+by+": "+measure.Describe(l.Launch))
		}
		if a.ReferencesOmitted > 0 {
			row("  values of a launch", fmt.Sprintf("%d more", a.ReferencesOmitted))
		}
	}
	if r.Launch != nil {
		row("launch", "which input of it that is, as coffer has computed:")
		for _, f := range r.Launch.Facts() {
			row("  "+f.Name, f.Value)
		}
	}
	return w.Flush()
}

// vector gives the claims that say anything, sorted.
func vector(m map[string]int) string {
	var out []string
	for k, v := range m {
		if v != 0 {
			out = append(out, fmt.Sprintf("%s=%d", k, v))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
