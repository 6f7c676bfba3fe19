package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/owner/auditcheck"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// auditOf is a log to check.
type auditOf struct {
	id string // "" where there is one
	auditcheck.Source
	removed *auditcheck.Tombstone // of a log that has no lines any more
}

// sources gives what to check, and the key for it if there is no witness.
func (v *auditVerification) sources(cmd *cobra.Command, known bool) ([]auditOf, string, func(), error) {
	if v.dir != "" {
		if !known {
			return nil, "", nil, Exit(ExitUsage, errors.New("--dir needs a --witness from the last time, or a --key: whose signature counts?"))
		}
		return []auditOf{{Source: auditcheck.Folder(v.dir)}}, "", func() {}, nil
	}
	t, err := openTrustee(cmd, v.trustee)
	if err != nil {
		return nil, "", nil, err
	}
	s, err := t.Client.AuditCheckpoint(cmd.Context())
	if err != nil {
		t.Release()
		return nil, "", nil, err
	}
	var out []auditOf
	if !v.all && v.log == "" {
		out = []auditOf{{Source: &auditcheck.Remote{Page: t.Client.Audit, Checkpoint: t.Client.AuditCheckpoint}}}
	} else {
		out, err = v.stored(cmd.Context(), t.Client)
	}
	if err != nil {
		t.Release()
		return nil, "", nil, err
	}
	return out, s.PublicKey, t.Release, nil
}

// stored gives the logs that the trustee lists: the one that --log begins, or all.
func (v *auditVerification) stored(ctx context.Context, c *trusteeclient.Client) ([]auditOf, error) {
	all, err := c.AuditLogs(ctx)
	if err != nil {
		return nil, err
	}
	var out []auditOf
	for _, l := range all {
		if !strings.HasPrefix(l.ID, v.log) {
			continue
		}
		if l.Removed == nil {
			out = append(out, auditOf{id: l.ID, Source: storedLog(c, l.ID)})
			continue
		}
		if v.log != "" {
			return nil, Exit(ExitInput, fmt.Errorf("--log %s: that log was removed at %s; --all checks its signed end", v.log, l.Removed.Time.Format(time.RFC3339)))
		}
		s, err := c.AuditCheckpointOf(ctx, l.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, auditOf{id: l.ID, removed: &auditcheck.Tombstone{Log: l.ID, Records: l.Records, Removal: *l.Removed, Signed: s}})
	}
	if v.log != "" && len(out) != 1 {
		return nil, Exit(ExitInput, fmt.Errorf("--log %s: %d logs begin so (coffer audit logs)", v.log, len(out)))
	}
	return out, nil
}

// storedLog is a log of the trustee's database.
func storedLog(c *trusteeclient.Client, id string) *auditcheck.Remote {
	return &auditcheck.Remote{
		Page: func(ctx context.Context, after uint64, limit int) ([]string, error) {
			return c.AuditOf(ctx, id, after, limit)
		},
		Checkpoint: func(ctx context.Context) (*auditlog.Signed, error) { return c.AuditCheckpointOf(ctx, id) },
	}
}
