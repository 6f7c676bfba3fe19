package server

import (
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
			r, err := Import(t.Context(), c, dir, "default", migrate.Options{DryRun: true})
			if err != nil || r.Counts[migrate.Import] != 3 || r.Counts[migrate.Skip] != 1 {
				t.Fatalf("dry run: %v %+v", err, r)
			}
			if _, err := os.Stat(c.State); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("a dry run made the state: %v", err)
			}
			if r, err = Import(t.Context(), c, dir, "default", migrate.Options{}); err != nil || r.Counts[migrate.Import] != 3 || r.Counts[migrate.Refuse] != 0 {
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
			if _, err := Import(t.Context(), c, dir, "default", migrate.Options{Replace: true}); err == nil {
				t.Error("imported into a running server's state")
			}
			w.stop()
			if r, err = Import(t.Context(), c, dir, "default", migrate.Options{}); err != nil || r.Counts[migrate.Refuse] != 2 || r.Counts[migrate.Present] != 1 {
				t.Errorf("once more: %v %+v", err, r)
			}
			if _, err := Import(t.Context(), c, dir, "nobody", migrate.Options{}); err == nil {
				t.Error("imported into a namespace that nobody made")
			}
		})
	}
}
