package server

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/backup"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestBackupAndRestore takes a backup of each store, while its trustee runs, and
// restores it into each: sessions, keys, secrets and the administrator are there.
func TestBackupAndRestore(t *testing.T) {
	pg := pgtest.Start(t)
	for _, from := range []string{"embedded", "database"} {
		w := newWorld(t, func(c *Config) {
			if from == "database" {
				c.Database, c.EnvelopeKey = pg.Database("origin"), filepath.Join(c.State, "envelope.key")
				if _, err := keyring.CreateFileKEK(c.EnvelopeKey); err != nil {
					t.Fatal(err)
				}
			}
		})
		doc := document(t, "pod a")
		w.bindSecret("default", secretName, "hunter2", doc)
		before := w.client("")
		before.handshake(doc)
		cookie, jwks := before.cookieValue(), string(before.do("GET", "/../../.well-known/jwks.json", nil).body)
		status, file := w.admin.do("POST", "/backup", nil)
		if status != 200 || bytes.Contains(file, []byte("hunter2")) || bytes.Contains(file, []byte(secretName)) {
			t.Fatalf("%s: backup: %d, %d bytes", from, status, len(file))
		}
		if from == "database" {
			var b bytes.Buffer
			if n, err := Backup(t.Context(), w.cfg, &b); err != nil || n == 0 {
				t.Errorf("backup of a database in use: %d, %v", n, err)
			}
		} else if _, err := Backup(t.Context(), w.cfg, &bytes.Buffer{}); !errors.Is(err, ErrRunning) {
			t.Errorf("backup of an embedded store in use, without asking: %v", err)
		}
		w.stop()
		// What was put after the backup is not in it.
		for _, to := range []string{"embedded", "database"} {
			v := *w
			v.cfg.State, v.cfg.Database, v.cfg.EnvelopeKey = t.TempDir(), "", ""
			copyFile(t, filepath.Join(w.cfg.State, "envelope.key"), filepath.Join(v.cfg.State, "envelope.key"))
			copyFile(t, filepath.Join(w.cfg.State, "admin.key"), filepath.Join(v.cfg.State, "admin.key"))
			if to == "database" {
				v.cfg.Database = pg.Database("from_" + from)
			}
			restore := func(b []byte) error { _, err := Restore(t.Context(), v.cfg, bytes.NewReader(b)); return err }
			if err := restore(file[:len(file)-1]); !errors.Is(err, backup.ErrMalformed) {
				t.Errorf("%s to %s: half a backup: %v", from, to, err)
			}
			if err := restore(file); err != nil {
				t.Fatalf("%s to %s: %v", from, to, err)
			}
			if err := restore(file); !errors.Is(err, store.ErrNotEmpty) {
				t.Errorf("%s to %s: over a store in use: %v", from, to, err)
			}
			v.s = nil
			v.start()
			c := v.client("")
			c.key, c.token = before.key, before.token
			if a := c.bearer(secretName); a.status != 200 || string(c.open(a.body)) != "hunter2" {
				t.Errorf("%s to %s: token from before: %d %s", from, to, a.status, a.body)
			}
			c.http.Jar.SetCookies(mustURL(t, c.base), cookies("kbs-session-id", cookie))
			if a := c.get(secretName); a.status != 200 {
				t.Errorf("%s to %s: session from before: %d %s", from, to, a.status, a.body)
			}
			if now := string(c.do("GET", "/../../.well-known/jwks.json", nil).body); now != jwks || jwks == "" {
				t.Errorf("%s to %s: another signing key", from, to)
			}
			v.stop()
		}
	}
}

func TestRestoreNeedsTheEnvelopeKey(t *testing.T) {
	w := newWorld(t)
	_, file := w.admin.do("POST", "/backup", nil)
	c := w.cfg
	c.State = t.TempDir()
	if _, err := Restore(t.Context(), c, bytes.NewReader(file)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without an envelope key: %v", err)
	}
	if _, err := keyring.CreateFileKEK(filepath.Join(c.State, "envelope.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), c, bytes.NewReader(file)); err == nil || !strings.Contains(err.Error(), "encrypted under key") {
		t.Errorf("with another envelope key: %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.State, "trustee.db")); err == nil {
		t.Error("a refused restore has left a store")
	}
}

// TestBackupIsForAdministrators also has it in the audit log before it leaves.
func TestBackupIsForAdministrators(t *testing.T) {
	w := newWorld(t)
	p := trusteeapi.PathPrefix + "/backup"
	if status, b := w.admin.raw("POST", p, "", nil); status != 401 {
		t.Errorf("without a token: %d %s", status, b)
	}
	if status, _ := w.admin.do("POST", "/backup", nil); status != 200 {
		t.Fatal(status)
	}
	if _, b := w.admin.do("GET", "/audit", nil); !strings.Contains(string(b), `"action":"POST /backup"`) {
		t.Errorf("no audit record: %s", b)
	}
	w.s.audit.Close()
	status, b := w.admin.do("POST", "/backup", nil)
	if status != 503 || bytes.HasPrefix(b, []byte("coffer-trustee-backup")) {
		t.Errorf("without an audit log: %d", status)
	}
}
