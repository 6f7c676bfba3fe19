package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/auditcheck"
	"github.com/cofferproject/coffer/owner/run"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// onAuditLog makes a command about one log of the trustee's database, which --log names.
func onAuditLog(use, short string, do func(cmd *cobra.Command, c *trusteeclient.Client, l *trusteeapi.AuditLog) error) *cobra.Command {
	var o run.TrusteeOptions
	var log string
	cmd := &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if log == "" {
			return Exit(ExitUsage, errors.New("--log is missing: which log (coffer audit logs)?"))
		}
		t, err := openTrustee(cmd, o)
		if err != nil {
			return err
		}
		defer t.Release()
		all, err := t.Client.AuditLogs(cmd.Context())
		if err != nil {
			return err
		}
		var found []trusteeapi.AuditLog
		for _, l := range all {
			if strings.HasPrefix(l.ID, log) {
				found = append(found, l)
			}
		}
		if len(found) != 1 {
			return Exit(ExitInput, fmt.Errorf("--log %s: %d logs begin so (coffer audit logs)", log, len(found)))
		}
		return do(cmd, t.Client, &found[0])
	}}
	addTrusteeFlags(cmd, &o)
	cmd.Flags().StringVar(&log, "log", "", "the log, or how its id begins (coffer audit logs)")
	return cmd
}

func newAuditExport() *cobra.Command {
	var out string
	cmd := onAuditLog("export --log LOG --out DIR", "Copy an audit log of the trustee's database into a folder, checked",
		func(cmd *cobra.Command, c *trusteeclient.Client, l *trusteeapi.AuditLog) error {
			if out == "" {
				return Exit(ExitUsage, errors.New("--out is missing: into which folder?"))
			}
			if l.Own {
				return Exit(ExitInput, errors.New("that log is the one of the replica that answers, which goes on writing it"))
			}
			s, err := c.AuditCheckpoint(cmd.Context())
			if err != nil {
				return err
			}
			r, err := auditcheck.Export(cmd.Context(), storedLog(c, l.ID), auditcheck.Options{Key: s.PublicKey}, out)
			if err != nil {
				return fmt.Errorf("audit log %.16s: %w", l.ID, err)
			}
			if r.Log != l.ID {
				return fmt.Errorf("audit log %.16s: the trustee gave log %.16s", l.ID, r.Log)
			}
			if Output(cmd) == "json" {
				return PrintJSON(cmd.OutOrStdout(), r)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "log %.16s: ", l.ID)
			printAudit(w, r.Report)
			fmt.Fprintf(w, "in %s, SHA-256 of its lines %s\n", out, r.SHA256)
			if !r.End {
				fmt.Fprintf(w, "its end is not signed: its server was killed, or writes still (coffer audit sign --log %.16s)\n", l.ID)
			}
			return nil
		})
	cmd.Long = `Copy an audit log of the trustee's database (serve --audit-log store) into a new
folder: its lines, what is signed about it, and a witness. The log is checked on the way,
and what is not whole is not exported. Afterwards

  coffer audit verify --dir DIR --witness DIR/witness.json

checks the copy by itself; against what a witness of yours has, name that one's file.

Exit codes: 0 all of it is in the folder; 120 no such log, or it is still written; 125 the
log is not whole, or the folder is there already or cannot be written.`
	cmd.Example = "  coffer audit export --log 4f0c21d8 --out audit-2026-08"
	cmd.Flags().StringVar(&out, "out", "", "folder to make")
	return cmd
}

func newAuditSign() *cobra.Command {
	cmd := onAuditLog("sign --log LOG", "Have the trustee sign where an audit log ends whose server was killed",
		func(cmd *cobra.Command, c *trusteeclient.Client, l *trusteeapi.AuditLog) error {
			s, err := untilChecked(cmd, func() (*auditlog.Signed, error) { return c.SignAuditLog(cmd.Context(), l.ID) })
			if err != nil {
				return err
			}
			what, err := s.Verify()
			if err != nil {
				return fmt.Errorf("audit log %.16s: %w", l.ID, err)
			}
			if Output(cmd) == "json" {
				return PrintJSON(cmd.OutOrStdout(), s)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "log %.16s: its end at record %d was signed at %s\n", l.ID, what.Seq, what.Time.Format(time.RFC3339))
			return nil
		})
	cmd.Long = `Have the replica that answers sign where the log of another one ends. A server signs
that itself when it stops; one that was killed could not, and without it the log cannot be
removed. The replica reads the whole log first: it must be whole, as it was when it was signed
last, and have been signed by nobody for two hours, since a server that lives does it each
hour. It takes no record more afterwards. Witnesses of the trustee are sent the checkpoint. An end that is signed
already is given as it is.

Exit codes: 0 the end is signed; 120 no such log; 123 refused, with a reason of
docs/denials.md (audit-log-...).`
	cmd.Example = "  coffer audit sign --log 4f0c21d8"
	return cmd
}

// untilChecked asks again for as long as the trustee reads the log, and says how far it is.
func untilChecked[T any](cmd *cobra.Command, ask func() (T, error)) (T, error) {
	for {
		out, err := ask()
		d, denied := denial.As(err)
		if !denied || d.Reason != reasonChecking {
			return out, err
		}
		fmt.Fprintln(cmd.ErrOrStderr(), d.Detail)
		select {
		case <-cmd.Context().Done():
			return out, cmd.Context().Err()
		case <-time.After(time.Second):
		}
	}
}

// reasonChecking is the trustee's (docs/denials.md).
const reasonChecking denial.Reason = "audit-log-checking"

func newAuditRemove() *cobra.Command {
	var dir, digest string
	cmd := onAuditLog("rm --log LOG (--export DIR | --sha256 HEX)", "Remove a finished audit log that was exported from the trustee's database",
		func(cmd *cobra.Command, c *trusteeclient.Client, l *trusteeapi.AuditLog) error {
			if (dir == "") == (digest == "") {
				return Exit(ExitUsage, errors.New("one of --export and --sha256: nothing is removed that was not exported"))
			}
			if dir != "" {
				s, err := c.AuditCheckpoint(cmd.Context())
				if err != nil {
					return err
				}
				id, sum, err := auditcheck.Identify(cmd.Context(), auditcheck.Folder(dir), auditcheck.Options{Key: s.PublicKey})
				if err != nil {
					return Exit(ExitInput, fmt.Errorf("export %s: %w", dir, err))
				}
				if id != l.ID {
					return Exit(ExitInput, fmt.Errorf("export %s: it is of log %.16s, not of %.16s", dir, id, l.ID))
				}
				digest = sum
			}
			r, err := untilChecked(cmd, func() (*auditlog.Removal, error) { return c.RemoveAuditLog(cmd.Context(), l.ID, digest) })
			if err != nil {
				return err
			}
			if Output(cmd) == "json" {
				return PrintJSON(cmd.OutOrStdout(), r)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "log %.16s is removed: record %d of log %.16s says so, and its signed end is kept\n", l.ID, r.Record, r.Log)
			return nil
		})
	cmd.Long = `Remove the records of a finished audit log from the trustee's database (serve
--audit-log store). The whole log must have been exported: --export is the folder, which is
checked, or --sha256 says what export had. The log's end must be signed (coffer audit
sign), a day ago or more. The removal is put into another log before anything is removed;
what stays is the signed end, by which coffer audit verify --all knows the log. A removal
that was cut off is finished by the trustee, or by the same command again. This needs
audit-log:remove, which the role admin has.

Exit codes: 0 the log is removed; 120 no such log, or the export is not whole or of another
one; 123 refused, with a reason of docs/denials.md (audit-log-...); 125 anything else, and
then coffer audit logs says whether it is removed.`
	cmd.Example = "  coffer audit rm --log 4f0c21d8 --export audit-2026-08"
	fl := cmd.Flags()
	fl.StringVar(&dir, "export", "", "folder that coffer audit export made of the log")
	fl.StringVar(&digest, "sha256", "", "SHA-256 that coffer audit export printed, where the folder is elsewhere")
	return cmd
}
