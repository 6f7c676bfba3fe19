package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/auditcheck"
	"github.com/cofferproject/coffer/owner/run"
	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/tee/policy"
)

// NewAuditCommand checks and looks through the trustee's audit log.
func NewAuditCommand() *cobra.Command {
	return group("audit", "Check the trustee's audit log, and judge what it records by another policy", newAuditVerify(), newAuditLogs(), newAuditExport(), newAuditSign(), newAuditRemove(), newAuditReplay())
}

func newAuditVerify() *cobra.Command {
	var v auditVerification
	cmd := &cobra.Command{
		Use:   "verify [--witness FILE] [--dir DIR | --log LOG | --all]",
		Short: "Check that the audit log is whole: its chain, its signed checkpoints, and against what was seen the last time",
		Long: `Check the audit log from the first record to the last: that every record follows
the one before, and that signed checkpoints fit. The chain alone does not tell a log
that was cut off or written anew by whoever owns the trustee's disk; the witness does:
a checkpoint of the last time, in a file that you keep elsewhere. It is made at the
first time and renewed after each check that finds nothing wrong.

Without --dir the log is read from the trustee. With --dir it is a folder with its
files and checkpoints.jsonl, and the witness's key is the one that counts. Where the
trustee keeps logs in its database (serve --audit-log store), --log checks one that
another replica wrote, or an earlier start of one, and --all checks all of them. Of
a log that was removed (coffer audit rm) --all checks what is kept: its signed end, that
the witness knows no more of it, and that the removal is on record in another log.

The witness may also be the file in which a receiver of the trustee's checkpoints keeps
them, a webhook's or a syslog's (coffer-trustee serve --audit-witness): one checkpoint
in a line. It is only read. All of them must be of this log and fit it, and two that
say different things of one record are a fork. Where replicas report to one witness,
--replicas lets it know their logs as well, and names them; with --all, every log that
it knows must be there.

Exit codes: 0 the log is whole; 120 the witness or the key cannot be read; 125 the log is
not whole, or cannot be read.`,
		Example: "  coffer audit verify --witness audit-witness.json\n  coffer audit verify --witness /var/log/coffer-checkpoints.log --all",
		Args:    noArgs,
		RunE:    v.run,
	}
	addTrusteeFlags(cmd, &v.trustee)
	fl := cmd.Flags()
	fl.StringVar(&v.dir, "dir", "", "folder with the log's files instead of the trustee")
	fl.StringVar(&v.log, "log", "", "check this log of the trustee's database (coffer audit logs), not the one of the replica that answers")
	fl.BoolVar(&v.all, "all", false, "check every log that the trustee has")
	fl.StringVar(&v.witness, "witness", "", "file with the checkpoint of the last time, made if it is not there; or what a receiver of checkpoints has kept")
	fl.StringVar(&v.key, "key", "", "file with the key (PEM) that checkpoints must be signed with, for --dir without a checkpoint of the last time")
	fl.BoolVar(&v.replicas, "replicas", false, "the receiver of checkpoints also hears from other replicas of the trustee")
	cmd.MarkFlagsMutuallyExclusive("dir", "log", "all")
	return cmd
}

// auditVerification is what newAuditVerify was told.
type auditVerification struct {
	trustee                run.TrusteeOptions
	dir, log, witness, key string
	all, replicas          bool
}

func (v *auditVerification) run(cmd *cobra.Command, _ []string) error {
	opts, keep, err := readWitness(v.witness)
	if err != nil {
		return Exit(ExitInput, err)
	}
	if v.all && keep {
		return Exit(ExitUsage, errors.New("--witness: the checkpoint of the last time is of one log; with --all it is what a receiver of checkpoints has kept"))
	}
	opts.Replicas = v.replicas || v.all
	sources, given, done, err := v.sources(cmd, opts.Witness != nil || v.key != "")
	if err != nil {
		return err
	}
	defer done()
	if opts.Key = given; v.key != "" {
		b, err := readFile(v.key, cmd.InOrStdin(), maxKey)
		if err != nil {
			return Exit(ExitInput, err)
		}
		opts.Key = string(b)
	}
	if v.all {
		return verifyAll(cmd, sources, *opts)
	}
	r, err := auditcheck.Run(cmd.Context(), sources[0].Source, *opts)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if keep {
		if err := auditcheck.WriteWitness(v.witness, &r.Witness); err != nil {
			return err
		}
	}
	if Output(cmd) == "json" {
		return PrintJSON(cmd.OutOrStdout(), r)
	}
	printAudit(cmd.OutOrStdout(), r)
	return nil
}

// verifyAll checks every log, each by itself, and that no log is missing which the
// receiver of checkpoints knows.
func verifyAll(cmd *cobra.Command, sources []auditOf, o auditcheck.Options) error {
	o.Unwitnessed = true // one that has just begun
	reports := map[string]*auditcheck.Report{}
	removals := auditcheck.NewRemovals()
	for _, s := range sources {
		var r *auditcheck.Report
		var err error
		if s.removed != nil {
			r, err = auditcheck.Buried(s.removed, o)
		} else {
			r, err = auditcheck.Run(cmd.Context(), removals.Watch(s.Source, s.id), o)
		}
		if err != nil {
			return fmt.Errorf("audit log %.16s: %w", s.id, err)
		}
		reports[s.id] = r
	}
	for _, s := range sources {
		if s.removed == nil {
			continue
		}
		proven, err := removals.Check(s.removed, reports[s.id], func(id string) bool { return reports[id] != nil && reports[id].Removed != nil })
		if err != nil {
			return fmt.Errorf("audit log %.16s: %w", s.id, err)
		}
		reports[s.id].Unproven = !proven
	}
	for _, r := range reports {
		for _, other := range r.OtherLogs {
			if reports[other.Log] == nil {
				return fmt.Errorf("audit log: the witness knows one that begins with %.16s and reached record %d, and the trustee does not have it: it was deleted, or is in files of a replica", other.Log, other.Seq)
			}
		}
	}
	if Output(cmd) == "json" {
		return PrintJSON(cmd.OutOrStdout(), reports)
	}
	for _, s := range sources {
		fmt.Fprintf(cmd.OutOrStdout(), "log %.16s: ", s.id)
		printAudit(cmd.OutOrStdout(), reports[s.id])
	}
	return nil
}

func newAuditLogs() *cobra.Command {
	var o run.TrusteeOptions
	cmd := &cobra.Command{
		Use:   "logs",
		Short: "List the audit logs that the trustee has",
		Long: `List the audit logs that the trustee has: the one of the replica that answers, and
those in its database, one for each start of a replica that keeps its log there
(coffer-trustee serve --audit-log store).`,
		Example: "  coffer audit logs",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := openTrustee(cmd, o)
			if err != nil {
				return err
			}
			defer t.Release()
			all, err := t.Client.AuditLogs(cmd.Context())
			if err != nil {
				return err
			}
			return printAnswer(cmd, auditLogs(all))
		},
	}
	addTrusteeFlags(cmd, &o)
	return cmd
}

const maxKey = 16 << 10

// readWitness reads either kind of a witness, and says whether it is to be renewed.
func readWitness(name string) (*auditcheck.Options, bool, error) {
	o := new(auditcheck.Options)
	if name == "" {
		return o, false, nil
	}
	received, err := auditcheck.IsReceived(name)
	if err != nil {
		return nil, false, err
	}
	if received {
		o.Received, err = auditcheck.ReadReceived(name)
		return o, false, err
	}
	o.Witness, err = auditcheck.ReadWitness(name)
	return o, true, err
}

// printAudit says what was found to be good.
func printAudit(w io.Writer, r *auditcheck.Report) {
	if x := r.Removed; x != nil {
		where := "record %d of log %.16s says so"
		if r.Unproven {
			where = "record %d of log %.16s says so, which was removed as well: its export has it"
		}
		fmt.Fprintf(w, "removed at %s by %s, its end at record %d is signed, the witness was told %d times; "+where+"\n",
			x.Time.Format(time.RFC3339), x.Actor, r.Records, r.Witnessed, x.Record, x.Log)
		return
	}
	since := "nothing is known from an earlier time"
	switch {
	case r.Since > 0:
		since = fmt.Sprintf("as it was up to record %d, where the witness stands", r.Since)
	case r.Witnessed > 0:
		since = fmt.Sprintf("as the witness was told %d times", r.Witnessed)
	}
	fmt.Fprintf(w, "%d records, chain whole, %d signed checkpoints; %s\n", r.Records, r.Checkpoints, since)
	x := r.Releases
	fmt.Fprintf(w, "secrets: %d authorised, %d delivered, %d undelivered, %d without an outcome\n", x.Authorised, x.Delivered, x.Undelivered, x.Unknown)
	for _, o := range r.OtherLogs {
		fmt.Fprintf(w, "the witness also knows the log that begins with %s, up to record %d\n", o.Log, o.Seq)
	}
}

func auditLogs(l []trusteeapi.AuditLog) table {
	t := table{head: []string{"LOG", "RECORDS", "HOST", "BEGAN", "REMOVED"}, doc: l}
	for _, x := range l {
		began := "kept in files by the replica that answers"
		if !x.Began.IsZero() {
			began = x.Began.Format(time.RFC3339)
		}
		removed := ""
		if x.Removed != nil {
			removed = x.Removed.Time.Format(time.RFC3339)
		}
		t.rows = append(t.rows, []string{x.ID, fmt.Sprint(x.Records), x.Host, began, removed})
	}
	return t
}

// replayed is the outcome of a replay.
type replayed struct {
	Audited  int                        `json:"audited"` // attestations in the log
	Judged   int                        `json:"judged"`  // of which evidence is kept
	Changed  int                        `json:"changed"` // that come out otherwise
	Verdicts []trusteeapi.PolicyVerdict `json:"verdicts"`
}

func newAuditReplay() *cobra.Command {
	var last int
	var resource string
	cmd := inNamespace("replay NAME FILE", "Judge the attestations in the audit log by another policy; nothing is changed", exactArgs(2, "a policy's name and its file"),
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, args []string) (any, error) {
			if last < 1 || last > 10_000 {
				return nil, Exit(ExitUsage, errors.New("--last is between 1 and 10000"))
			}
			b, err := readFile(args[1], cmd.InOrStdin(), policy.MaxSize)
			if err != nil {
				return nil, Exit(ExitInput, err)
			}
			test := trusteeapi.PolicyTest{Kind: trusteeapi.TestAttestation, Name: args[0], Text: string(b)}
			if resource != "" {
				test.Kind, test.Resource = trusteeapi.TestResource, strings.TrimPrefix(resource, "kbs:///")
			}
			r, err := replay(cmd.Context(), n, test, last)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "coffer: %d attestations audited, the evidence of %d is kept, %d come out otherwise\n", r.Audited, r.Judged, r.Changed)
			t := verdicts(r.Verdicts)
			t.doc = r
			return t, nil
		})
	cmd.Long = `Take the attestations that the audit log records in a namespace and say what another
policy would make of them. NAME is an attestation policy's, <id>_<class>, or with
--resource any name of a resource policy. Judged is what the trustee has kept of the
verified evidence: that of the newest 1,000 decisions of the namespace.`
	cmd.Flags().IntVar(&last, "last", 1000, "how many of the newest attestations")
	cmd.Flags().StringVar(&resource, "resource", "", "judge by a resource policy who could have had this secret")
	return cmd
}

func replay(ctx context.Context, n *trusteeclient.Namespaced, test trusteeapi.PolicyTest, last int) (*replayed, error) {
	ids, err := auditedAttestations(ctx, n, last)
	if err != nil {
		return nil, err
	}
	r := &replayed{Audited: len(ids), Verdicts: []trusteeapi.PolicyVerdict{}}
	const batch = 100
	for len(ids) > 0 {
		test.Records = ids[:min(batch, len(ids))]
		ids = ids[len(test.Records):]
		l, err := n.TestPolicy(ctx, test)
		if err != nil {
			return nil, err
		}
		for _, v := range l {
			if v.After == "unknown" {
				continue
			}
			r.Judged++
			if v.After != v.Before && test.Kind == trusteeapi.TestAttestation || v.After == "denied" {
				r.Changed++
			}
			r.Verdicts = append(r.Verdicts, v)
		}
	}
	return r, nil
}

// auditedAttestations gives the records of the newest attestations of a namespace in
// the audit log, the oldest first.
func auditedAttestations(ctx context.Context, n *trusteeclient.Namespaced, last int) ([]string, error) {
	var ids []string
	src := &auditcheck.Remote{Page: n.Client().Audit}
	err := src.Lines(ctx, func(line []byte) error {
		var e struct{ Kind, Record, Namespace string }
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		if e.Kind == "attest" && e.Namespace == n.Name() {
			ids = append(ids, e.Record)
		}
		if len(ids) > 2*last {
			ids = append(ids[:0], ids[len(ids)-last:]...)
		}
		return nil
	})
	return ids[max(0, len(ids)-last):], err
}
