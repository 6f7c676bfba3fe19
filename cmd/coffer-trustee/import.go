package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"text/tabwriter"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/migrate"
	"github.com/cofferproject/coffer/trustee/server"
)

// importStores is `coffer-trustee import`.
func importStores(args []string) error {
	f := flag.NewFlagSet("coffer-trustee import", flag.ContinueOnError)
	c := server.Config{Now: time.Now, Log: slog.New(slog.NewJSONHandler(os.Stderr, nil))}
	var o migrate.Options
	f.StringVar(&c.State, "state", "", "folder of all state (default $COFFER_STATE/trustee, or ~/.local/share/coffer/trustee); no server may run on it")
	from := f.String("from", "", "folder of the LocalFs or LocalJson store: the one with repository, reference_value, ... in it")
	ns := f.String("namespace", trusteeapi.DefaultNamespace, "namespace to bring things to; it is there already")
	f.BoolVar(&o.DryRun, "dry-run", false, "only report")
	f.BoolVar(&o.Replace, "replace", false, "take the place of what is there already; a secret's next version goes to whom its binding names")
	c.Limits = limits.Defaults()
	f.Func("limit", "NAME=N, how many of something are kept, as for serve; may be repeated (docs/trustee.md)", c.Limits.Change)
	output := f.String("output", "text", "form of the report: text or json")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *from == "" || f.NArg() > 0 || *output != "text" && *output != "json" {
		return errors.New("import: give --from DIR, --output text or json, and no arguments")
	}
	if c.State == "" {
		var err error
		if c.State, err = defaultState(); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r, err := server.Import(ctx, c, *from, *ns, o)
	if err != nil {
		return err
	}
	if *output == "json" {
		err = json.NewEncoder(os.Stdout).Encode(r)
	} else {
		err = report(os.Stdout, r)
	}
	if err == nil && r.Counts[migrate.Refuse] > 0 {
		err = fmt.Errorf("%d entries were refused", r.Counts[migrate.Refuse])
	}
	return err
}

// report prints one line for each entry. Names come from a folder of somebody
// else's, so they are quoted.
func report(w io.Writer, r *migrate.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, it := range r.Items {
		fmt.Fprintf(t, "%s\t%q\t%s\t%s\n", it.Action, it.Store+"/"+it.Key, it.As, it.Why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	dry := ""
	if r.DryRun {
		dry = " (dry run: nothing was changed)"
	}
	_, err := fmt.Fprintf(w, "import %d, present %d, skip %d, refuse %d%s\n",
		r.Counts[migrate.Import], r.Counts[migrate.Present], r.Counts[migrate.Skip], r.Counts[migrate.Refuse], dry)
	return err
}
