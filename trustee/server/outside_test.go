package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/kbsconfig"
	"github.com/cofferproject/coffer/trustee/secretstore"
	"github.com/cofferproject/coffer/trustee/secretstore/vaultkv/fakekv"
)

// vaultStore gives the flag that names a fake Vault.
func vaultStore(t *testing.T, v *fakekv.Server, name, engine, namespaces string) *secretstore.Spec {
	t.Helper()
	dir := t.TempDir()
	s, err := secretstore.ParseSpec(name + "=vault:" + v.URL + "/kv" + engine + "?kv=" + engine + "&namespaces=" + namespaces + "&ca=" + v.CA(t, dir) + "&token-file=" + fakekv.File(t, dir, "token", v.Root()))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSecretFromStoreOutside has a bound guest get a secret that lives in Vault, and
// nobody else, whatever the store does.
func TestSecretFromStoreOutside(t *testing.T) {
	v := fakekv.Start(t, time.Now)
	v.Put2("db/app", map[string]any{"password": "hunter2", "user": "app"})
	w := newWorld(t, func(c *Config) {
		c.SecretStores = []*secretstore.Spec{vaultStore(t, v, "prod", "2", "default"), vaultStore(t, v, "old", "1", "default,sim"), vaultStore(t, v, "theirs", "2", "sim")}
	})
	doc := document(t, "pod a")
	c, stranger := w.client(""), w.client("")
	c.handshake(doc)
	stranger.handshake(document(t, "pod b"))
	mapTo := func(m trusteeapi.OutsideSecret) { w.admin.must("PUT", "/namespaces/default/outside/"+secretName, m) }
	db := trusteeapi.OutsideSecret{Store: "prod", Source: "db/app", Field: "password"}
	mapTo(db)
	if v.Calls("kv2") != 0 {
		t.Error("mapping has asked the store")
	}
	denied(t, w, c.get(secretName), 403, "secret-unbound")
	w.admin.must("POST", "/namespaces/default/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
	denied(t, w, stranger.get(secretName), 403, "secret-unbound")
	w.admin.resourcePolicy("p", "*", "allow := false", "GET")
	denied(t, w, c.get(secretName), 403, "resource-policy-denied")
	w.admin.resourcePolicy("p", "*", "allow := true", "GET")
	if v.Calls("kv2") != 0 {
		t.Error("the store was asked for nobody")
	}
	a := c.get(secretName)
	if a.status != 200 || string(c.open(a.body)) != "hunter2" || a.header.Get(kbs.VersionHeader) != "1" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r := w.audit("release")
	if e := r[len(r)-1]; e["source"] != "prod:db/app@1" || e["version"] != 1.0 || e["resource"] != secretName || e["policy"] == "" {
		t.Errorf("record %v", e)
	}
	// A new version in the store is the next guest's; an older one can be asked for.
	second := v.Put2("db/app", map[string]any{"password": "hunter3"})
	if a := c.get(secretName); string(c.open(a.body)) != "hunter3" {
		t.Errorf("the new version: %d %s", a.status, a.body)
	}
	if a := c.get(secretName + "?version=1"); string(c.open(a.body)) != "hunter2" {
		t.Errorf("version 1: %d %s", a.status, a.body)
	}
	if a := c.get(secretName + "?after=2"); a.status != http.StatusNotModified {
		t.Errorf("nothing newer: %d %s", a.status, a.body)
	}
	denied(t, w, c.get(secretName+"?version=9"), 404, "secret-absent")
	second.Deleted = time.Now()
	denied(t, w, c.get(secretName), 404, "secret-deleted")
	second.Deleted = time.Time{}
	mapTo(trusteeapi.OutsideSecret{Store: "prod", Source: "db/app", Field: "password", Version: "1"})
	if a := c.get(secretName); string(c.open(a.body)) != "hunter2" {
		t.Errorf("mapped to version 1: %d %s", a.status, a.body)
	}
	denied(t, w, c.get(secretName+"?version=2"), 404, "secret-absent")
	mapTo(db)

	// Whatever the store does, is a typed refusal with its record, and nothing leaves.
	before := len(w.audit("release"))
	for name, tc := range map[string]struct {
		fault  func(http.ResponseWriter, *http.Request) bool
		status int
		reason string
	}{
		"sealed":  {fakekv.Sealed, 503, "secret-store-unavailable"},
		"quota":   {answers(429, `{"errors":["request path quota exceeded"]}`), 503, "secret-store-unavailable"},
		"no":      {answers(403, `{"errors":["permission denied"]}`), 502, "secret-store-refused"},
		"moved":   {answers(307, ``), 502, "secret-store-refused"},
		"garbage": {answers(200, `<html>hunter2`), 502, "secret-store-malformed"},
		"huge":    {answers(200, `{"data":"`+strings.Repeat("x", secretstore.MaxAnswer)+`"}`), 502, "secret-store-malformed"},
		"large":   {answers(200, `{"data":{"data":{"password":"`+strings.Repeat("x", secretstore.MaxValue+1)+`"},"metadata":{"version":1}}}`), 502, "secret-store-malformed"},
		"empty":   {answers(200, `{"data":{"data":{"password":""},"metadata":{"version":1}}}`), 502, "secret-store-malformed"},
		"no text": {answers(200, `{"data":{"data":{"password":{"a":1}},"metadata":{"version":1}}}`), 502, "secret-store-malformed"},
		"nothing": {answers(200, `{"data":{"data":{"user":"a"},"metadata":{"version":1}}}`), 404, "secret-absent"},
	} {
		v.Fail(tc.fault)
		a := c.get(secretName)
		if a.status != tc.status || a.err.Reason != tc.reason {
			t.Errorf("%s: %d %s", name, a.status, a.body)
			continue
		}
		denied(t, w, a, tc.status, tc.reason)
		if d := w.admin.record(a.err.Record).Denial; strings.Contains(d.Measured, "hunter") || !strings.Contains(d.Source, "prod") {
			t.Errorf("%s: %+v", name, d)
		}
	}
	text := metricsOf(t, w)
	for _, want := range []string{`{store="prod",outcome="fetched"} 5`, `{store="prod",outcome="deleted"} 1`, `{store="prod",outcome="away"} 2`, `{store="prod",outcome="refused"} 2`, `{store="prod",outcome="malformed"} 5`} {
		if !strings.Contains(text, "coffer_trustee_secret_store_requests_total"+want+"\n") {
			t.Errorf("no %s in the metrics", want)
		}
	}
	if !strings.Contains(text, `coffer_trustee_secret_store_duration_seconds_count{store="prod"}`) {
		t.Error("no durations in the metrics")
	}
	for _, not := range []string{"hunter", "password", "db/app", secretName} {
		if strings.Contains(text, not) {
			t.Errorf("the metrics name %q", not)
		}
	}
	v.Fail(nil)
	if n := len(w.audit("release")); n != before {
		t.Errorf("%d releases were recorded of nothing", n-before)
	}
	v.Close()
	denied(t, w, c.get(secretName), 503, "secret-store-unavailable")
	if a := w.client("").do("GET", "/resource/"+secretName, nil); a.status != 401 {
		t.Errorf("without a token: %d", a.status)
	}
	w.admin.put("default", "default/other/here", "stored") // all else goes on
	w.admin.must("POST", "/namespaces/default/bindings/default/other/here", trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
	if a := c.get("default/other/here"); string(c.open(a.body)) != "stored" {
		t.Errorf("a stored secret: %d %s", a.status, a.body)
	}
}

func metricsOf(t *testing.T, w *world) string {
	t.Helper()
	var b strings.Builder
	if _, err := w.s.metrics.Set.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func answers(status int, body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Location", "https://elsewhere.example/")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
		return true
	}
}

// TestMappingsOfSecrets has administrators map, list and remove, and no namespace reach
// another's store.
func TestMappingsOfSecrets(t *testing.T) {
	v := fakekv.Start(t, time.Now)
	v.Put1("a", map[string]any{"data": "aHVudGVyMg==", "bytes": []int{1, 2, 255}, "more": []int{256}})
	w := newWorld(t, func(c *Config) {
		c.SecretStores = []*secretstore.Spec{vaultStore(t, v, "old", "1", "default"), vaultStore(t, v, "theirs", "2", "sim")}
	})
	const path = "/namespaces/default/outside/" + secretName
	put := func(m trusteeapi.OutsideSecret) int {
		b, _ := json.Marshal(m)
		status, _ := w.admin.do("PUT", path, b)
		return status
	}
	for name, m := range map[string]trusteeapi.OutsideSecret{
		"no store": {Source: "a", Field: "data"}, "another namespace's": {Store: "theirs", Source: "a", Field: "data"}, "no source": {Store: "old", Field: "data"},
		"up": {Store: "old", Source: "../sys/raw", Field: "data"}, "a query": {Store: "old", Source: "a?x", Field: "data"}, "absolute": {Store: "old", Source: "/a", Field: "data"},
		"no field": {Store: "old", Source: "a"}, "a version of none": {Store: "old", Source: "a", Field: "data", Version: "1"}, "another name": {Name: "a/b/c", Store: "old", Source: "a", Field: "data"},
		"encoding": {Store: "old", Source: "a", Field: "data", Encoding: "rot13"}, "actor": {Store: "old", Source: "a", Field: "data", Actor: "me"},
		"long": {Store: "old", Source: strings.Repeat("a/", 300) + "a", Field: "data"}, "deep": {Store: "old", Source: strings.Repeat("a/", 20) + "a", Field: "data"},
	} {
		if s := put(m); s != 400 {
			t.Errorf("%s: %d", name, s)
		}
	}
	var stores []trusteeapi.SecretStore
	if _, b := w.admin.do("GET", "/namespaces/default/secret-stores", nil); json.Unmarshal(b, &stores) != nil || len(stores) != 1 || stores[0] != (trusteeapi.SecretStore{Name: "old", Kind: "vault"}) {
		t.Errorf("stores %+v", stores)
	}
	if s := put(trusteeapi.OutsideSecret{Store: "old", Source: "a", Field: "data", Encoding: "base64"}); s != 200 {
		t.Fatal(s)
	}
	// A name lives in one place.
	if s, _ := w.admin.do("PUT", "/namespaces/default/resources/"+secretName, []byte("x")); s != 409 {
		t.Errorf("stored although mapped: %d", s)
	}
	w.admin.put("default", "default/here/x", "x")
	b, _ := json.Marshal(trusteeapi.OutsideSecret{Store: "old", Source: "a", Field: "data"})
	if s, _ := w.admin.do("PUT", "/namespaces/default/outside/default/here/x", b); s != 409 {
		t.Errorf("mapped although stored: %d", s)
	}
	doc := document(t, "pod a")
	w.admin.must("POST", "/namespaces/default/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
	c := w.client("")
	c.handshake(doc)
	a := c.get(secretName)
	if a.status != 200 || string(c.open(a.body)) != "hunter2" || a.header.Get(kbs.VersionHeader) != "" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	denied(t, w, c.get(secretName+"?version=1"), 404, "secret-unversioned")
	denied(t, w, c.get(secretName+"?after=1"), 404, "secret-unversioned")
	put(trusteeapi.OutsideSecret{Store: "old", Source: "a", Field: "bytes"})
	if got := c.open(c.get(secretName).body); string(got) != "\x01\x02\xff" {
		t.Errorf("a list of bytes: %q", got)
	}
	put(trusteeapi.OutsideSecret{Store: "old", Source: "a", Field: "more"})
	denied(t, w, c.get(secretName), 502, "secret-store-malformed")
	put(trusteeapi.OutsideSecret{Store: "old", Source: "a", Field: "bytes", Encoding: "base64"})
	denied(t, w, c.get(secretName), 502, "secret-store-malformed")
	var l []trusteeapi.OutsideSecret
	if _, b := w.admin.do("GET", "/namespaces/default/outside", nil); json.Unmarshal(b, &l) != nil || len(l) != 1 || l[0].Name != secretName || l[0].Actor == "" || l[0].Binding == nil || strings.Contains(string(b), "hunter") {
		t.Errorf("list %s", b)
	}
	// A store that this trustee no longer has, or not for this namespace.
	w.stop()
	w.cfg.SecretStores = []*secretstore.Spec{vaultStore(t, v, "old", "1", "sim")}
	w.start()
	c = w.client("")
	c.handshake(doc)
	denied(t, w, c.get(secretName), 502, "secret-store-unknown")
	if s, _ := w.admin.do("DELETE", path, nil); s != 204 {
		t.Fatal(s)
	}
	denied(t, w, c.get(secretName), 403, "secret-unbound") // the binding went with it
	if s, _ := w.admin.do("DELETE", path, nil); s != 404 {
		t.Error(s)
	}
}

// TestSlowStoreHoldsNobodyElse has a namespace wait for a store that hangs, while another
// namespace goes on with it.
func TestSlowStoreHoldsNobodyElse(t *testing.T) {
	v := fakekv.Start(t, time.Now)
	v.Put2("a", map[string]any{"x": "hunter2"})
	w := newWorld(t, func(c *Config) { c.SecretStores = []*secretstore.Spec{vaultStore(t, v, "prod", "2", "default,other")} })
	w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: "other"})
	w.admin.takeFakes("other")
	doc := document(t, "pod a")
	clients := map[string]*rcar{}
	for _, ns := range []string{"default", "other"} {
		w.admin.must("PUT", "/namespaces/"+ns+"/outside/"+secretName, trusteeapi.OutsideSecret{Store: "prod", Source: "a", Field: "x"})
		w.admin.must("POST", "/namespaces/"+ns+"/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
		clients[ns] = w.client(ns)
		clients[ns].handshake(doc)
	}
	var asked atomic.Bool
	hangs := make(chan struct{})
	v.Fail(func(rw http.ResponseWriter, r *http.Request) bool {
		if asked.Swap(true) {
			return false
		}
		close(hangs)
		return fakekv.Hang(rw, r)
	})
	slow := make(chan *answer)
	go func() { slow <- clients["default"].get(secretName) }()
	<-hangs
	begun := time.Now()
	if a := clients["other"].get(secretName); a.status != 200 || string(clients["other"].open(a.body)) != "hunter2" {
		t.Errorf("the other namespace: %d %s", a.status, a.body)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it waited %v", took)
	}
	// The store was asked once more after its time: then it answered.
	if a := <-slow; a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestTakenBackWhileStoreAnswers: what an administrator has taken back while the store was
// asked releases nothing, and what he has changed is what counts.
func TestTakenBackWhileStoreAnswers(t *testing.T) {
	v := fakekv.Start(t, time.Now)
	v.Put2("a", map[string]any{"x": "hunter2"})
	v.Put2("b", map[string]any{"x": "hunter3"})
	w := newWorld(t, func(c *Config) { c.SecretStores = []*secretstore.Spec{vaultStore(t, v, "prod", "2", "default")} })
	const api = "/namespaces/default"
	doc := document(t, "pod a")
	w.admin.addOwner("default", w.owner.Public())
	seal := w.seal(doc, w.owner)
	policy := func(text string) trusteeapi.ResourcePolicy {
		return trusteeapi.ResourcePolicy{Name: "p", Resources: "*", Methods: []string{"GET"}, Text: "package policy\nimport rego.v1\n" + text}
	}
	at := func(source string) trusteeapi.OutsideSecret {
		return trusteeapi.OutsideSecret{Store: "prod", Source: source, Field: "x"}
	}
	for name, tc := range map[string]struct {
		method, path string
		body         any
		status       int
		reason, want string
	}{
		"unbound":  {"DELETE", api + "/bindings/" + secretName, nil, 403, "secret-unbound", ""},
		"unmapped": {"DELETE", api + "/outside/" + secretName, nil, 403, "secret-unbound", ""},
		"no seal":  {"DELETE", api + "/seals/" + seal.ID, nil, 403, "secret-unbound", ""},
		"policy":   {"PUT", api + "/resource-policies/p", policy("allow := false"), 403, "resource-policy-denied", ""},
		"keys":     {"POST", api + "/token-keys", trusteeapi.TokenKeyRotation{Compromised: true}, 401, "token-invalid", ""},
		"remapped": {"PUT", api + "/outside/" + secretName, at("b"), 200, "", "hunter3"},
		"allowed":  {"PUT", api + "/resource-policies/p", policy("allow if true"), 200, "", "hunter2"},
	} {
		t.Run(name, func(t *testing.T) {
			w.admin.must("PUT", api+"/outside/"+secretName, at("a"))
			p := w.admin.resourcePolicy("p", "*", "allow := true", "GET")
			w.admin.must("POST", api+"/seals", trusteeapi.SealInfo{JWS: seal.Raw})
			w.admin.must("POST", api+"/bindings/"+secretName, trusteeapi.Binding{Seals: []string{seal.ID}})
			c := w.client("")
			c.handshake(doc)
			releases, refusals := len(w.audit("release")), len(w.audit("denied"))
			var once sync.Once
			v.Fail(func(http.ResponseWriter, *http.Request) bool {
				once.Do(func() { w.admin.must(tc.method, tc.path, tc.body) })
				return false
			})
			a := c.get(secretName)
			if tc.want == "" {
				if n, m := len(w.audit("release"))-releases, len(w.audit("denied"))-refusals; n != 0 || m != 1 {
					t.Errorf("%d releases and %d refusals are recorded", n, m)
				}
				denied(t, w, a, tc.status, tc.reason)
				return
			}
			if a.status != 200 || string(c.open(a.body)) != tc.want {
				t.Fatalf("%d %s", a.status, a.body)
			}
			all := w.audit("release")
			if len(all) != releases+1 {
				t.Fatalf("%d releases are recorded", len(all)-releases)
			}
			e, version := all[releases], p.Version
			if name == "allowed" {
				version++ // the decision that let it out
			}
			if e["policy"] != fmt.Sprintf("p@%d", version) || e["source"] != "prod:"+map[string]string{"hunter2": "a", "hunter3": "b"}[tc.want]+"@1" || e["seal"] != seal.ID {
				t.Errorf("record %v", e)
			}
		})
	}
}

// TestPublishedVaultFile starts the server from the existing service's own
// configuration of Vault, and has a bound guest get what lies there.
func TestPublishedVaultFile(t *testing.T) {
	v := fakekv.Start(t, time.Now)
	v.Put1("app/password", map[string]any{"data": "hunter2"})
	read, err := kbsconfig.ParseTOML(fmt.Appendf(nil, `
[http_server]
sockets = ["127.0.0.1:8080"]
[admin]
authorization_mode = "DenyAll"
[[plugins]]
name = "resource"
storage_backend_type = "Vault"
vault_url = %q
token = %q
mount_path = "kv1"
verify_ssl = true
ca_certs = [%q]
`, v.URL, v.Root(), v.CA(t, t.TempDir())))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *Config) {
		if err := c.Use(read, "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	})
	doc := document(t, "pod a")
	c, stranger := w.client(""), w.client("")
	c.handshake(doc)
	stranger.handshake(document(t, "pod b"))
	w.admin.must("PUT", "/namespaces/default/outside/"+secretName, trusteeapi.OutsideSecret{Store: kbsconfig.ResourceStore, Source: "app/password", Field: "data"})
	w.admin.must("POST", "/namespaces/default/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
	if a := c.get(secretName); a.status != 200 || string(c.open(a.body)) != "hunter2" {
		t.Errorf("%d %s", a.status, a.body)
	}
	denied(t, w, stranger.get(secretName), 403, "secret-unbound")
}
