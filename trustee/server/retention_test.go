package server

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// TestAuditRetention has two replicas on PostgreSQL, whose values carry MACs: one begins a
// log and ends, and the other one removes it, a day later.
func TestAuditRetention(t *testing.T) {
	url := pgtest.Start(t).Database("trustee")
	key := filepath.Join(t.TempDir(), "envelope.key")
	if _, err := keyring.CreateFileKEK(key); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *Config) { c.Database, c.EnvelopeKey, c.Audit.InStore = url, key, true })
	second := w.cfg
	second.State = t.TempDir()
	s, err := Start(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	old, _, err := s.audit.End(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	removal := func(sum string) (int, []byte) {
		b, err := json.Marshal(trusteeapi.AuditRemoval{SHA256: sum})
		if err != nil {
			t.Fatal(err)
		}
		return w.admin.do("POST", "/audit/logs/"+old+"/removal", b)
	}
	digest := func() string {
		_, b := w.admin.do("GET", "/audit?log="+old, nil)
		d := auditlog.NewDigest()
		for l := range bytes.Lines(b) {
			d.Add(bytes.TrimSuffix(l, []byte("\n")))
		}
		return d.Hex()
	}
	sum := digest()
	if status, b := removal(sum); status != 409 || !strings.Contains(string(b), `"audit-log-in-use"`) {
		t.Errorf("while its server lives: %d %s", status, b)
	}
	if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(audit.LeastAge + time.Minute)
	sum = digest()
	for _, bad := range []string{"", "x", strings.ToUpper(sum), sum + "00"} {
		if status, b := removal(bad); status != 400 {
			t.Errorf("%q: %d %s", bad, status, b)
		}
	}
	if status, b := removal(strings.Repeat("0", 64)); status != 409 || !strings.Contains(string(b), `"audit-log-unexported"`) {
		t.Errorf("not exported: %d %s", status, b)
	}
	for range 2 {
		status, b := removal(sum)
		var r auditlog.Removal
		if json.Unmarshal(b, &r) != nil || status != 200 || r.SHA256 != sum || r.Record == 0 {
			t.Fatalf("%d %s", status, b)
		}
	}
	if status, b := w.admin.do("GET", "/audit?log="+old, nil); status != 409 || !strings.Contains(string(b), `"audit-log-removed"`) {
		t.Errorf("reading it: %d %s", status, b)
	}
	var logs []trusteeapi.AuditLog
	if _, b := w.admin.do("GET", "/audit/logs", nil); json.Unmarshal(b, &logs) != nil || len(logs) != 2 {
		t.Fatalf("%s", b)
	}
	for _, l := range logs {
		if (l.Removed != nil) != (l.ID == old) {
			t.Errorf("%+v", l)
		}
	}
	if err := audit.Sweep(t.Context(), w.s.store); err != nil {
		t.Error(err)
	}
	_, own := w.admin.do("GET", "/audit", nil)
	if n := bytes.Count(own, []byte(`"action":"`+auditlog.ActionRemoved+`"`)); n != 1 {
		t.Errorf("%d records of the removal", n)
	}
}

// A log in the store is signed often enough to be seen to live, whatever was configured.
func TestCheckpointsOfAStoredLog(t *testing.T) {
	for _, tc := range []struct {
		every   time.Duration
		inStore bool
		want    time.Duration
	}{
		{0, false, 5 * time.Minute}, {0, true, 5 * time.Minute}, {time.Millisecond, true, 100 * time.Millisecond},
		{48 * time.Hour, false, 48 * time.Hour}, {48 * time.Hour, true, audit.SignAgain / 2},
	} {
		s := &Server{cfg: Config{Audit: Audit{CheckpointEvery: tc.every, InStore: tc.inStore}}}
		if got := s.checkpointEvery(); got != tc.want {
			t.Errorf("%+v: %s", tc, got)
		}
	}
}
