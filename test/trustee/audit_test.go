package trustee_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/owner/auditcheck"
)

// The owner's check accepts what the real trustee writes, over its API and as files,
// and sees with its witness what the trustee's host has done to them.
func TestAuditLogChecksOut(t *testing.T) {
	s, c := start(t)
	ctx := t.Context()
	if _, err := c.Namespace("sim").PutResource(ctx, "default/db/password", []byte("x")); err != nil {
		t.Fatal(err)
	}
	signed, err := c.AuditCheckpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	remote := &auditcheck.Remote{Page: c.Audit, Checkpoint: c.AuditCheckpoint}
	r, err := auditcheck.Run(ctx, remote, auditcheck.Options{Key: signed.PublicKey})
	if err != nil || r.Records < 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := c.Namespace("sim").PutResource(ctx, "default/db/password", []byte("y")); err != nil {
		t.Fatal(err)
	}
	again, err := auditcheck.Run(ctx, remote, auditcheck.Options{Witness: &r.Witness})
	if err != nil || again.Since == 0 || again.Records <= r.Records {
		t.Fatalf("%+v, %v", again, err)
	}
	dir := filepath.Join(s.Client().StateDir, "audit")
	if err := s.Close(context.Background()); err != nil { // writes a checkpoint
		t.Fatal(err)
	}
	files := func(w *auditlog.Signed) error {
		_, err := auditcheck.Run(ctx, auditcheck.Folder(dir), auditcheck.Options{Witness: w})
		return err
	}
	if err := files(&again.Witness); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "audit-*.jsonl"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(b), "\n"), "\n")
	if err := os.WriteFile(names[0], []byte(strings.Join(lines[:len(lines)-1], "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := files(&again.Witness); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("the last record is gone: %v", err)
	}
}
