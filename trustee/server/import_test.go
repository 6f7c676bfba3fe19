package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/migrate"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// oldStore is what the existing services have left, in one of their two forms.
func oldStore(t *testing.T, asJSON bool) string {
	t.Helper()
	dir := t.TempDir()
	end := time.Now().AddDate(0, 6, 0).UTC().Format("2006-01-02T15:04:05Z")
	for store, entries := range map[string]map[string]string{
		"repository":                 {"default/db/password": "hunter2"},
		"attestation_service_policy": {"default_cpu.rego": fakePolicy()},
		"reference_value":            {"svn": `{"version":"0.1.0","name":"svn","expiration":"` + end + `","value":[3]}`},
		"kbs":                        {"resource-policy.rego": "package policy\ndefault allow = true\n"},
	} {
		doc := map[string]string{}
		for k, v := range entries {
			doc[k] = base64.URLEncoding.EncodeToString([]byte(v))
			p := filepath.Join(dir, store, strings.ReplaceAll(k, "/", `\x2F`))
			if asJSON {
				continue
			}
			if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(v), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if !asJSON {
			continue
		}
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, store), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Who moves from the existing services has their secrets, policies and reference
// values in this one, and nobody gets a secret before he is named.
func TestImport(t *testing.T) {
	for name, asJSON := range map[string]bool{"LocalFs": false, "LocalJson": true} {
		t.Run(name, func(t *testing.T) {
			dir := oldStore(t, asJSON)
			c := Config{State: filepath.Join(t.TempDir(), "state"), Log: discard, Now: time.Now}
			r, err := Import(t.Context(), c, migrate.Folder(dir), "default", migrate.Options{DryRun: true})
			if err != nil || r.Counts[migrate.Import] != 3 || r.Counts[migrate.Skip] != 1 {
				t.Fatalf("dry run: %v %+v", err, r)
			}
			if _, err := os.Stat(c.State); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("a dry run made the state: %v", err)
			}
			if r, err = Import(t.Context(), c, migrate.Folder(dir), "default", migrate.Options{}); err != nil || r.Counts[migrate.Import] != 3 || r.Counts[migrate.Refuse] != 0 {
				t.Fatalf("%v %+v", err, r)
			}
			w := newWorld(t, func(n *Config) { n.State, n.Services = c.State, Services{Attestation: "127.0.0.1:0"} })
			doc := document(t, "pod a")
			g := w.client("")
			g.handshake(doc)
			denied(t, w, g.get("default/db/password"), 403, "secret-unbound")
			w.admin.must("POST", "/namespaces/default/bindings/default/db/password", trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
			if got := g.open(g.get("default/db/password").body); string(got) != "hunter2" {
				t.Errorf("secret %q", got)
			}
			if v, ok, _, _ := w.as().call(queryMethod, message{{1, "svn"}}); !ok || v != "[3]" {
				t.Errorf("reference value %q", v)
			}
			n := 0
			for _, e := range w.audit("admin") {
				if e["actor"] == "coffer-trustee import" {
					n++
				}
			}
			if n != 3 {
				t.Errorf("%d changes in the audit log, want 3", n)
			}
			// A state that a server has open is left alone.
			c.LockWait = 10 * time.Millisecond
			if _, err := Import(t.Context(), c, migrate.Folder(dir), "default", migrate.Options{Replace: true}); err == nil {
				t.Error("imported into a running server's state")
			}
			w.stop()
			if r, err = Import(t.Context(), c, migrate.Folder(dir), "default", migrate.Options{}); err != nil || r.Counts[migrate.Refuse] != 0 || r.Counts[migrate.Present] != 3 {
				t.Errorf("once more: %v %+v", err, r)
			}
			if _, err := Import(t.Context(), c, migrate.Folder(dir), "nobody", migrate.Options{}); err == nil {
				t.Error("imported into a namespace that nobody made")
			}
		})
	}
}

// cutStore ends at its n-th change, before it is made or after.
type cutStore struct {
	store.Store
	left  *int
	after bool
}

var errImportCut = errors.New("cut off")

func (s *cutStore) Update(ctx context.Context, fn func(store.Tx) error) error {
	if *s.left--; *s.left > 0 {
		return s.Store.Update(ctx, fn)
	}
	if *s.left < 0 || !s.after {
		return errImportCut // and whatever follows
	}
	if err := s.Store.Update(ctx, fn); err != nil {
		return err
	}
	return errImportCut
}

// An import that is cut off at any change, before it is made or after, is run again and
// brings over the rest: nothing is there twice, half, or refused because it is there.
func TestImportCutOffAndRunAgain(t *testing.T) {
	from := migrate.Folder(oldStore(t, false))
	for _, after := range []bool{false, true} {
		cuts := 0
		for n := 1; ; n++ {
			left := n
			c := Config{State: filepath.Join(t.TempDir(), "state"), Log: discard, Now: time.Now}
			c.WrapStore = func(s store.Store) store.Store { return &cutStore{s, &left, after} }
			_, err := Import(t.Context(), c, from, "default", migrate.Options{})
			if err == nil {
				break
			}
			cuts++
			if !errors.Is(err, errImportCut) {
				t.Fatalf("cut at change %d: %v", n, err)
			}
			c.WrapStore = nil
			r, err := Import(t.Context(), c, from, "default", migrate.Options{})
			if err != nil || r.Counts[migrate.Import]+r.Counts[migrate.Present] != 3 || r.Counts[migrate.Refuse] != 0 {
				t.Fatalf("cut at change %d, after it %v: run again: %v %+v", n, after, err, r)
			}
			if r, err = Import(t.Context(), c, from, "default", migrate.Options{}); err != nil || r.Counts[migrate.Present] != 3 {
				t.Fatalf("cut at change %d: a third time: %v %+v", n, err, r)
			}
			w := newWorld(t, func(n *Config) { n.State = c.State })
			if h := read[trusteeapi.History](w.admin, "/namespaces/default/resources/default/db/password/versions"); len(h.Versions) != 1 {
				t.Errorf("cut at change %d: %d versions of one secret", n, len(h.Versions))
			}
			w.stop()
		}
		if cuts < 3 {
			t.Errorf("only %d changes: the test shows nothing", cuts)
		}
	}
}

// Who has PostgreSQL there may have it here: from tables to replicas' database.
func TestImportFromPostgreSQLIntoPostgreSQL(t *testing.T) {
	db := pgtest.Start(t)
	old, shared := db.Database("old"), db.Database("coffer")
	db.SQL("old", `CREATE TABLE repository (key TEXT PRIMARY KEY, value BYTEA); INSERT INTO repository VALUES ('default/db/password', 'hunter2')`)
	from, err := migrate.PostgreSQL(old)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := Config{State: filepath.Join(dir, "import"), Log: discard, Now: time.Now, Database: shared, EnvelopeKey: filepath.Join(dir, "envelope.key")}
	if _, err := NewEnvelopeKey(t.Context(), c.EnvelopeKey, ""); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(n *Config) { n.Database, n.EnvelopeKey = c.Database, c.EnvelopeKey }) // goes on meanwhile
	for _, want := range []migrate.Action{migrate.Import, migrate.Present} {
		r, err := Import(t.Context(), c, from, "default", migrate.Options{})
		if err != nil || r.Counts[want] != 1 || len(r.Items) != 1 {
			t.Fatalf("%v %+v", err, r)
		}
	}
	doc := document(t, "pod a")
	w.admin.must("POST", "/namespaces/default/bindings/default/db/password", trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
	g := w.client("")
	g.handshake(doc)
	if a := g.get("default/db/password"); a.status != 200 || string(g.open(a.body)) != "hunter2" {
		t.Errorf("%d %s", a.status, a.body)
	}
}
