package trustee_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/server"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/witness"
)

// want runs coffer and compares its exit code and a part of what it says.
func (c *commands) want(code int, text string, args ...string) string {
	c.t.Helper()
	out, err := c.coffer("", args...)
	got := 0
	var e *exec.ExitError
	if errors.As(err, &e) {
		got = e.ExitCode()
	} else if err != nil {
		c.t.Fatal(err)
	}
	if got != code || !strings.Contains(out, text) {
		c.t.Errorf("coffer %s: exit code %d, not %d with %q: %s", strings.Join(args, " "), got, code, text, out)
	}
	return out
}

func (c *commands) logs() []trusteeapi.AuditLog {
	c.t.Helper()
	var l []trusteeapi.AuditLog
	if err := json.Unmarshal([]byte(c.want(0, "", "audit", "logs", "--output", "json")), &l); err != nil {
		c.t.Fatal(err)
	}
	return l
}

// unsigned takes away what was signed of the newest log in a store, as if its server had
// been killed before.
func unsigned(t *testing.T, state string) {
	t.Helper()
	inStore(t, state, func(tx store.Tx) error {
		newest := ""
		var began time.Time
		if err := tx.Scan("audit-logs", "", func(key string, value []byte) (bool, error) {
			var h struct{ Began time.Time }
			if err := json.Unmarshal(value, &h); err != nil {
				return false, err
			}
			if h.Began.After(began) {
				newest, began = key, h.Began
			}
			return true, nil
		}); err != nil {
			return err
		}
		return tx.Delete("audit-checkpoints", newest)
	})
}

// A log of three days ago is exported, checked and removed; verify knows it by its signed
// end, and misses it when that is gone too. One whose server was killed has to be signed.
func TestRetention(t *testing.T) {
	c := newCommands(t)
	socket := filepath.Join(c.dir, "log")
	k := newKeeper(t, socket)
	state := filepath.Join(c.dir, "state", "trustee")
	for i := range 2 {
		old, err := server.Start(t.Context(), server.Config{
			State: state, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().Add(-72 * time.Hour) },
			Audit: server.Audit{InStore: true, Witnesses: []witness.Target{{URL: "syslog+unix://" + socket}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		k.wait(t, i+1)
		if err := old.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	unsigned(t, state)
	args := []string{"--audit-log", "store", "--audit-witness", "syslog+unix://" + socket}
	killed, _ := c.server(args...)
	if out, err := c.coffer("secret", "secret", "put", "default/db/password", "--namespace", "default"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := killed.Kill(); err != nil {
		t.Fatal(err)
	}
	stop := c.serve(args...)
	l := c.logs()
	if len(l) != 4 || !l[3].Own {
		t.Fatalf("%+v", l)
	}
	id := func(i int) string { return l[i].ID[:16] }
	copyOf := func(i int) string { return filepath.Join(c.dir, "export-"+id(i)) }

	c.want(2, "--log", "audit", "export", "--out", "x")
	c.want(2, "--out", "audit", "export", "--log", id(0))
	c.want(120, "0 logs", "audit", "export", "--log", "none", "--out", "x")
	c.want(120, "goes on writing", "audit", "export", "--log", id(3), "--out", "x")
	c.want(0, "SHA-256", "audit", "export", "--log", id(0), "--out", copyOf(0))
	c.want(125, "exists", "audit", "export", "--log", id(0), "--out", copyOf(0))
	c.want(0, "chain whole", "audit", "verify", "--dir", copyOf(0), "--witness", filepath.Join(copyOf(0), "witness.json"))
	c.want(0, "chain whole", "audit", "verify", "--dir", copyOf(0), "--witness", k.file, "--replicas", "--key", publicKeyOf(t, copyOf(0)))
	c.want(125, "", "audit", "export", "--log", id(1), "--out", copyOf(1)) // nothing vouches for it
	c.want(0, "is not signed", "audit", "export", "--log", id(2), "--out", copyOf(2))

	c.want(2, "was not exported", "audit", "rm", "--log", id(0))
	c.want(120, "it is of log", "audit", "rm", "--log", id(0), "--export", copyOf(2))
	c.want(123, "audit-log-unexported", "audit", "rm", "--log", id(0), "--sha256", strings.Repeat("0", 64))
	c.want(123, "audit-log-unsigned", "audit", "rm", "--log", id(2), "--export", copyOf(2))
	c.want(123, "audit-log-in-use", "audit", "sign", "--log", id(2)) // in two hours
	c.want(0, "was signed at", "audit", "sign", "--log", id(1))
	c.want(0, "SHA-256", "audit", "export", "--log", id(1), "--out", copyOf(1))
	c.want(123, "audit-log-in-use", "audit", "rm", "--log", id(1), "--export", copyOf(1)) // tomorrow
	c.want(123, "audit-log-in-use", "audit", "sign", "--log", id(3))
	out := c.want(0, "chain whole", "audit", "verify", "--all", "--witness", k.file)
	if strings.Count(out, "chain whole") != 4 {
		t.Errorf("verify --all: %s", out)
	}

	c.want(0, "is removed", "audit", "rm", "--log", id(0), "--export", copyOf(0))
	c.want(0, "is removed", "audit", "rm", "--log", id(0), "--export", copyOf(0))
	c.want(123, "audit-log-removed", "audit", "export", "--log", id(0), "--out", "x")
	c.want(120, "was removed", "audit", "verify", "--log", id(0))
	if l := c.logs(); len(l) != 4 || l[0].Removed == nil || l[1].Removed != nil || l[0].Removed.Log != l[3].ID {
		t.Errorf("%+v", l)
	}
	for range 2 { // by the server that removed it, and by the next one
		out = c.want(0, "is signed, the witness was told 1 times", "audit", "verify", "--all", "--witness", k.file)
		if !strings.Contains(out, "log "+id(0)+": removed at") || strings.Count(out, "chain whole") < 3 {
			t.Errorf("verify --all: %s", out)
		}
		stop()
		stop = c.serve(args...)
	}
	stop()
	takeOldestLog(t, state) // the tombstone
	c.serve(args...)
	c.want(125, id(0), "audit", "verify", "--all", "--witness", k.file)
}

// publicKeyOf writes the key of an export's witness into a file.
func publicKeyOf(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "witness.json"))
	if err != nil {
		t.Fatal(err)
	}
	var w struct {
		Key string `json:"public_key"`
	}
	if err := json.Unmarshal(b, &w); err != nil || w.Key == "" {
		t.Fatal(w, err)
	}
	p := filepath.Join(t.TempDir(), "audit.pem")
	if err := os.WriteFile(p, []byte(w.Key), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}
