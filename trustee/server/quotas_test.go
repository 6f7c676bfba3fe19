package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// TestSessionsOfANamespace: one has as many attested sessions as its quota says, others
// notice nothing of it, and room comes back when sessions end.
func TestSessionsOfANamespace(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: "small"})
	w.admin.must("PUT", "/namespaces/small/quotas", trusteeapi.Quotas{Quotas: map[string]int{"sessions": 2}})
	attest := func(ns string) *answer {
		c := w.client(ns)
		c.auth(fakeTEE, `""`)
		return c.attest(c.fake(doc), doc)
	}
	w.admin.takeFakes("small")
	for range 2 {
		if a := attest("small"); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	a := attest("small")
	denied(t, w, a, 429, "limit-reached")
	if a.err.Claim != "sessions" || a.header.Get("Retry-After") == "" {
		t.Errorf("%+v, Retry-After %q", a.err, a.header.Get("Retry-After"))
	}
	if d := w.admin.record(a.err.Record).Denial; !strings.Contains(d.Detail, "coffer namespace quota small sessions=N") {
		t.Errorf("the administrator is told %q", d.Detail)
	}
	if a := attest("default"); a.status != 200 {
		t.Errorf("another namespace: %d %s", a.status, a.body)
	}
	w.clock.advance(10 * time.Minute)
	if _, err := w.s.sessions.Sweep(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if a := attest("small"); a.status != 200 {
			t.Errorf("after those have ended: %d %s", a.status, a.body)
		}
	}
	denied(t, w, attest("small"), 429, "limit-reached")
}

// TestSecretBytes: what a namespace's secrets take is counted, through versions, their
// end and that of a secret.
func TestSecretBytes(t *testing.T) {
	w := newWorld(t)
	w.admin.must("PUT", "/namespaces/default/quotas", trusteeapi.Quotas{Quotas: map[string]int{"secret-bytes": 15_000}})
	put := func(name string, n int) (int, string) {
		status, b := w.admin.do("PUT", "/namespaces/default/resources/default/x/"+name, []byte(strings.Repeat("s", n)))
		return status, string(b)
	}
	for range 3 {
		if status, b := put("a", 3000); status != 200 {
			t.Fatalf("%d %s", status, b)
		}
	}
	if status, b := put("a", 3000); status != 409 || !strings.Contains(b, "secret-bytes") {
		t.Errorf("a fourth version: %d %s", status, b)
	}
	if status, b := put("b", 3000); status != 409 || !strings.Contains(b, "secret-bytes") {
		t.Errorf("another secret: %d %s", status, b)
	}
	if status, b := w.admin.do("POST", "/namespaces/default/resources/default/x/a/versions/1/destroy", []byte("{}")); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	if status, b := put("b", 3000); status != 200 {
		t.Errorf("in the place of a destroyed version: %d %s", status, b)
	}
	for _, name := range []string{"a", "b"} {
		if status, b := w.admin.do("DELETE", "/namespaces/default/resources/default/x/"+name, nil); status != 204 {
			t.Fatalf("%d %s", status, b)
		}
	}
	// Old versions make room for new ones, however many there were.
	for i := range 30 {
		if status, b := put("c", 800); status != 200 {
			t.Fatalf("version %d: %d %s", i, status, b)
		}
	}
}

// TestQuotas: who sets them, and which there are.
func TestQuotas(t *testing.T) {
	w := newWorld(t)
	for quotas, want := range map[string]string{
		`{"secrets":0}`: "quota secrets: 0", `{"turtles":1}`: "turtles", `{"namespaces":5}`: "namespaces is of the trustee", `{"secrets":"many"}`: "",
		`{"secrets":-1}`: "quota secrets: -1", fmt.Sprintf(`{"secrets":%d}`, uint64(1)<<50): "quota secrets",
	} {
		status, b := w.admin.do("PUT", "/namespaces/default/quotas", []byte(`{"quotas":`+quotas+`}`))
		if status != 400 || !strings.Contains(string(b), want) {
			t.Errorf("%s: %d %s, want %q", quotas, status, b, want)
		}
	}
	if status, b := w.admin.do("PUT", "/namespaces/none/quotas", []byte(`{"quotas":{"secrets":1}}`)); status != 404 {
		t.Errorf("no such namespace: %d %s", status, b)
	}
	w.admin.must("PUT", "/namespaces/default/quotas", trusteeapi.Quotas{Quotas: map[string]int{"secrets": 1, "binding-entries": 1}})
	if status, b := w.admin.do("PUT", "/namespaces/default/resources/default/x/a", []byte("a")); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	if status, b := w.admin.do("PUT", "/namespaces/default/resources/default/x/b", []byte("b")); status != 409 || !strings.Contains(string(b), "namespace default takes at most 1 secrets") {
		t.Errorf("beyond the quota: %d %s", status, b)
	}
	if status, b := w.admin.do("PUT", "/namespaces/sim/resources/default/x/b", []byte("b")); status != 200 {
		t.Errorf("another namespace: %d %s", status, b)
	}
	two := fmt.Sprintf(`{"initdata":["sha256:%064x","sha256:%064x"]}`, 1, 2)
	if status, b := w.admin.do("POST", "/namespaces/default/bindings/default/x/a", []byte(two)); status != 409 || !strings.Contains(string(b), "binding-entries") {
		t.Errorf("two digests: %d %s", status, b)
	}
	w.admin.must("PUT", "/namespaces/default/quotas", trusteeapi.Quotas{})
	if status, b := w.admin.do("PUT", "/namespaces/default/resources/default/x/b", []byte("b")); status != 200 {
		t.Errorf("the trustee's limit again: %d %s", status, b)
	}
}
