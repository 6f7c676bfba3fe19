package server

import (
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/trustee/store"
)

// whatIsLeft lists the buckets in which a namespace has anything, and whether a text is
// anywhere in the store's keys.
func (w *world) whatIsLeft(ns string) (out []string) {
	w.t.Helper()
	seen := map[string]bool{}
	if err := w.s.store.(store.Dumper).Dump(w.t.Context(), func(bucket, key string, _ []byte) error {
		if strings.HasPrefix(bucket, "ns/"+ns+"/") || bucket != "namespaces-gone" && (key == ns || strings.Contains(key, "ns/"+ns+"/") || strings.HasSuffix(key, "/"+ns)) {
			if !seen[bucket] {
				out = append(out, bucket)
			}
			seen[bucket] = true
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// A namespace goes in two steps, which are audited, with its secrets only where that is
// said; then nobody gets in, nothing of it is left, and its name is not used again.
func TestNamespaceIsDeleted(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	fill := func(ns string) {
		t.Helper()
		w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: ns})
		w.admin.takeFakes(ns)
		w.bindSecret(ns, secretName, "hunter2", doc)
		w.admin.put(ns, secretName, "hunter3")
		w.admin.put(ns, "gone/before/x", "old")
		if status, _ := w.admin.do("DELETE", "/namespaces/"+ns+"/resources/gone/before/x", nil); status != 204 {
			t.Fatal(status)
		}
		b := &refvalue.Bundle{Version: 1, Provenance: refvalue.Provenance{Tool: "test"}, Sets: []refvalue.Set{}}
		b.AddValues("svn", 1)
		bundle, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		for path, body := range map[string][]byte{
			"/reference-values/v": bundle, "/policies/mine_cpu": []byte(fakePolicy()), "/anchors/cca/trust-anchors": trustAnchors(t),
			"/resource-policies/mine": []byte(`{"name":"mine","resources":"*","methods":["GET"],"text":"package policy\nimport rego.v1\ndefault allow := true\n"}`),
		} {
			if status, b := w.admin.do("PUT", "/namespaces/"+ns+path, body); status != 200 {
				t.Fatalf("%s: %d %s", path, status, b)
			}
		}
		w.admin.must("POST", "/namespaces/"+ns+"/roots", trusteeapi.EKRoot{Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tpmtest.NewCA(t, "maker of "+ns).Root.Raw}))})
		w.admin.must("POST", "/namespaces/"+ns+"/enrolled-aks", trusteeapi.EnrolledAK{Name: "000b" + strings.Repeat("0", 60) + "00" + map[string]string{"tenant-a": "aa", "tenant-b": "bb"}[ns]})
	}
	fill("tenant-a")
	fill("tenant-b")
	a, b := w.client("tenant-a"), w.client("tenant-b")
	for _, c := range []*rcar{a, b} {
		c.handshake(doc)
		if r := c.get(secretName); r.status != 200 {
			t.Fatal(r.status)
		}
	}
	owner := w.admin.credential(grant(trusteeapi.RoleOwner, "tenant-a"))

	ask := func(ns string, d trusteeapi.NamespaceDeletion) (int, trusteeapi.NamespaceDeletion, string) {
		t.Helper()
		body, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		status, raw := w.admin.do("POST", "/namespaces/"+ns+"/deletion", body)
		var out trusteeapi.NamespaceDeletion
		if status == 200 {
			if err := json.Unmarshal(raw, &out); err != nil {
				t.Fatal(err)
			}
		}
		return status, out, string(raw)
	}
	type request = trusteeapi.NamespaceDeletion
	if status, _, _ := ask("tenant-a", request{Confirm: ""}); status != 200 {
		t.Fatal(status)
	}
	_, first, _ := ask("tenant-a", request{})
	if first.Secrets != 1 || first.Confirm == "" {
		t.Fatalf("%+v", first)
	}
	refused := func(ns string, d request, want int) {
		t.Helper()
		if status, _, body := ask(ns, d); status != want {
			t.Errorf("%s %+v: %d %s, want %d", ns, d, status, body, want)
		}
	}
	refused("tenant-a", request{Confirm: "x", DestroySecrets: true}, 409)
	refused("tenant-a", request{Confirm: first.Confirm}, 409) // it holds secrets
	refused("tenant-b", request{Confirm: first.Confirm, DestroySecrets: true}, 409)
	refused("tenant-a", request{DestroySecrets: true}, 400)
	refused("default", request{}, 409)
	refused("sim", request{}, 409)
	refused("nobody", request{}, 404)
	// What came since was not confirmed.
	w.admin.put("tenant-a", "new/since/x", "x")
	refused("tenant-a", request{Confirm: first.Confirm, DestroySecrets: true}, 409)
	_, first, _ = ask("tenant-a", request{})
	w.clock.advance(11 * time.Minute)
	refused("tenant-a", request{Confirm: first.Confirm, DestroySecrets: true}, 409)
	a.handshake(doc) // its session has ended meanwhile
	b.handshake(doc)
	both := w.admin.credential(grant(trusteeapi.RoleOwner, "tenant-a"), grant(trusteeapi.RoleReader, "tenant-b"))
	_, first, _ = ask("tenant-a", request{})
	if first.Secrets != 2 {
		t.Errorf("%+v", first)
	}
	if status, body := w.admin.as(owner, "POST", trusteeapi.PathPrefix+"/namespaces/tenant-a/deletion", request{Confirm: first.Confirm, DestroySecrets: true}); status != 403 {
		t.Errorf("an owner deletes: %d %s", status, body)
	}
	refused("tenant-a", request{Confirm: first.Confirm, DestroySecrets: true}, 204)

	// At once: nobody gets in, by session, by token, by name, by key set.
	if r := a.get(secretName); r.status != 404 {
		t.Errorf("a session of a deleted namespace: %d %s", r.status, r.body)
	}
	if r := a.bearer(secretName); r.status != 404 {
		t.Errorf("a token of a deleted namespace: %d %s", r.status, r.body)
	}
	thief := w.client("default")
	thief.token, thief.key = a.token, a.key
	if r := thief.bearer(secretName); r.status != 401 {
		t.Errorf("its token elsewhere: %d %s", r.status, r.body)
	}
	if r := w.client("tenant-a").auth(fakeTEE, `""`); r.status != 404 {
		t.Errorf("auth: %d", r.status)
	}
	if status, body := w.admin.do("POST", "/namespaces", []byte(`{"name":"tenant-a"}`)); status != 409 || !strings.Contains(string(body), "no name is used again") {
		t.Errorf("the name again: %d %s", status, body)
	}
	if left := w.whatIsLeft("tenant-a"); len(left) < 12 {
		t.Errorf("only %v was there before: the test shows nothing", left)
	}
	// And nothing is left. What requests under way may have written goes at the end.
	if err := w.s.purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(3 * time.Minute)
	if err := w.s.purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := w.s.registry.Unpurged(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}
	w.clock.advance(20 * time.Minute)
	if _, err := w.s.sessions.Sweep(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	if left := w.whatIsLeft("tenant-a"); len(left) > 0 {
		t.Errorf("left in the store: %v", left)
	}
	for _, c := range read[[]trusteeapi.Credential](w.admin, "/credentials") {
		if c.ID == owner.ID {
			t.Error("a credential with nothing left to it is there")
		}
		if c.ID == both.ID && (len(c.Grants) != 1 || c.Grants[0].Namespace != "tenant-b") {
			t.Errorf("grants %v", c.Grants)
		}
	}
	steps := map[string]int{}
	for _, e := range w.audit("admin") {
		if e["namespace"] == "tenant-a" {
			steps[e["action"].(string)]++
		}
	}
	if steps["delete namespace and destroy its secrets"] == 0 || steps["purged what the deleted namespace held"] != 1 || steps["POST /namespaces/{ns}/deletion"] < 3 {
		t.Errorf("audit %v", steps)
	}
	// The other one has what it had, also after a restart.
	w.stop()
	w.start()
	b = w.client("tenant-b")
	b.handshake(doc)
	if r := b.get(secretName); r.status != 200 || string(b.open(r.body)) != "hunter3" {
		t.Errorf("the other namespace: %d %s", r.status, r.body)
	}
	if r := w.client("tenant-a").auth(fakeTEE, `""`); r.status != 404 {
		t.Errorf("after a restart: %d", r.status)
	}
}
