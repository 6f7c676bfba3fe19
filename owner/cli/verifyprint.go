package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/owner/evidence"
)

// printReport prints what was found and gives the error that becomes the exit
// code.
func printReport(cmd *cobra.Command, r *evidence.Report) error {
	if Output(cmd) == "json" {
		if err := PrintJSON(cmd.OutOrStdout(), r); err != nil {
			return err
		}
	} else {
		for _, n := range r.NotChecked {
			fmt.Fprintln(cmd.ErrOrStderr(), "coffer: NOT CHECKED:", n)
		}
		if err := writeReport(cmd.OutOrStdout(), r); err != nil {
			return err
		}
	}
	switch {
	case r.Denial != nil:
		return &ExitError{Code: ExitDenied, Err: r.Denial, Silent: Output(cmd) == "json"}
	case !r.Affirmed():
		return &ExitError{
			Code: ExitNotAffirmed, Silent: Output(cmd) == "json",
			Err: fmt.Errorf("the evidence is what it says, and the policy does not affirm it: %s", r.Status),
		}
	}
	return nil
}

// writeReport writes a report for people: the verdict first.
func writeReport(out io.Writer, r *evidence.Report) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	row := func(name string, value any) {
		if s := fmt.Sprint(value); s != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, denial.Printable(s))
		}
	}
	if d := r.Denial; d != nil {
		row("verdict", "REFUSED")
		row("TEE", r.TEE)
		refusal(row, d)
		row("judged by", r.Time.Format(time.RFC3339))
		return w.Flush()
	}
	row("verdict", r.Status)
	row("judged by", r.Time.Format(time.RFC3339))
	err := w.Flush()
	for i := range r.Devices {
		err = errors.Join(err, writeDevice(out, &r.Devices[i]))
	}
	return err
}

func refusal(row func(string, any), d *denial.Denial) {
	row("reason", d.Reason)
	row("component", d.Component)
	row("claim", d.Claim)
	row("measured", d.Measured)
	row("expected", d.Expected)
	row("expected by", d.Source)
	row("detail", d.Detail)
}

func writeDevice(out io.Writer, d *evidence.Device) error {
	fmt.Fprintf(out, "\n%s: %s\n", d.Submod, d.TEE)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	row := func(name string, value any) {
		if s := fmt.Sprint(value); s != "" {
			fmt.Fprintf(w, "  %s\t%s\n", name, denial.Printable(s))
		}
	}
	row("status", d.Status)
	row("vector", vector(d.Vector))
	row("policy", d.Policy+" "+d.PolicyDigest)
	if d.Simulated {
		row("SIMULATED", "proves nothing: "+d.SimulationNote)
	}
	if d.Debug {
		row("DEBUG", "its host can look in, or it is a debug image")
	}
	for _, u := range d.Unproven {
		row("UNPROVEN", u)
	}
	row("initdata", d.Initdata)
	fmt.Fprintln(w, "  CHECKED\tFOUND\tAGAINST")
	for _, c := range d.Checks {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", shown(c.What), shown(c.Found), shown(c.Source))
	}
	if len(d.Findings) > 0 {
		fmt.Fprintln(w, "  NOT AFFIRMED\tFIELD\tMEASURED\tEXPECTED\tBY")
		for _, f := range d.Findings {
			field := f.Field
			if field == "" {
				field = f.Condition
			}
			fmt.Fprintf(w, "  %s=%d\t%s\t%s\t%s\t%s\n", f.Claim, f.Value, shown(field), shown(f.Measured), shown(f.Expected), shown(f.Source))
		}
	}
	if d.Launch != nil {
		fmt.Fprintln(w, "  LAUNCH\tWHICH INPUT IT IS, AS COMPUTED")
		for _, f := range d.Launch.Facts() {
			fmt.Fprintf(w, "  %s\t%s\n", f.Name, denial.Printable(f.Value))
		}
	}
	fmt.Fprintln(w, "  CLAIM\tVALUE")
	for _, name := range d.ClaimNames() {
		s, ok := d.Claims[name].(string)
		if !ok {
			b, err := json.Marshal(d.Claims[name])
			if err != nil {
				return err
			}
			s = string(b)
		}
		fmt.Fprintf(w, "  %s\t%s\n", shown(name), shown(s))
	}
	return w.Flush()
}

// shown shortens what would not fit on a line, and takes out what is no text: the
// evidence is its sender's. --output json has it whole.
func shown(s string) string {
	const most = 160
	s = denial.Printable(s)
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s... (%d characters)", s[:most], len(s))
}
