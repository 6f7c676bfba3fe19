package server

import (
	"encoding/json"
	"testing"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
)

// A launch digest does not say that it is a debug image's. The bundle that names
// it does: production refuses it unless the namespace was made for debug guests,
// and what it alone explains is a debug guest, whatever the policy says.
func TestDebugReferenceValues(t *testing.T) {
	w := newWorld(t)
	text := `package policy
import rego.v1
default executables := 33
trust_claims := {"executables": executables, "hardware": 2, "configuration": 2}
executables := 3 if input.faketee.fact in query_reference_value("facts")
`
	doc := document(t, "pod a")
	w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: "lab", InsecureAllowDebug: true})
	for _, ns := range []string{"default", "lab"} {
		if status, b := w.admin.do("PUT", "/namespaces/"+ns+"/policies/default_cpu", []byte(text)); status != 200 {
			t.Fatalf("%d %s", status, b)
		}
		w.bindSecret(ns, secretName, "hunter2", doc)
	}
	bundle := func(debug bool, values ...any) []byte {
		b := &refvalue.Bundle{Version: 1, Provenance: refvalue.Provenance{Tool: "coffer measure"}, Sets: []refvalue.Set{}, Debug: debug}
		b.AddValues("facts", values...)
		doc, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	status, b := w.admin.do("PUT", "/namespaces/default/reference-values/debug", bundle(true, "yes"))
	var e kbs.ErrorInfo
	if err := json.Unmarshal(b, &e); err != nil || status != 400 || e.Reason != "debug-reference-values" {
		t.Errorf("in production: %d %s", status, b)
	}
	put := func(name string, doc []byte) {
		t.Helper()
		if status, b := w.admin.do("PUT", "/namespaces/lab/reference-values/"+name, doc); status != 200 {
			t.Fatalf("%d %s", status, b)
		}
	}
	attest := func(ns string) (*rcar, ear.Submod) {
		t.Helper()
		c := w.client(ns)
		c.auth(fakeTEE, `""`)
		if a := c.attest(c.fake(doc), doc); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		claims, err := w.s.tokens.Verify(w.t.Context(), ns, c.token)
		if err != nil {
			t.Fatal(err)
		}
		return c, claims.Submods["cpu0"]
	}
	put("debug", bundle(true, "yes"))
	c, s := attest("lab")
	if !s.Coffer.Debug || s.Status == ear.Affirming || s.Vector.Executables != ear.ApprovedBoot || s.Vector.Configuration != ear.UnsafeConfig {
		t.Errorf("explained by a debug image's values: %+v", s)
	}
	if a := c.get(secretName); a.status != 200 {
		t.Errorf("in a namespace for debug guests: %d %s", a.status, a.body)
	}
	// Values that explain nothing here make no debug guest of it, and those of a
	// release image go first.
	put("debug", bundle(true, "no"))
	if _, s := attest("lab"); s.Coffer.Debug || s.Vector.Executables == ear.ApprovedBoot {
		t.Errorf("explained by nothing: %+v", s)
	}
	put("debug", bundle(true, "yes"))
	put("release", bundle(false, "yes"))
	if _, s := attest("lab"); s.Coffer.Debug || s.Status != ear.Affirming {
		t.Errorf("explained by a release image's values: %+v", s)
	}
	// Simulation takes them as well, and releases nothing to such a guest.
	if status, b := w.admin.do("PUT", "/namespaces/sim/policies/default_cpu", []byte(text)); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	w.bindSecret("sim", secretName, "toy", doc)
	if status, b := w.admin.do("PUT", "/namespaces/sim/reference-values/debug", bundle(true, "yes")); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	c = w.client("sim")
	c.auth(fakeTEE, `""`)
	if a := c.attest(c.fake(doc, func(e *fakeEvidence) { e.Simulated = true }), doc); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	denied(t, w, c.get(secretName), 403, "status-unacceptable")
}
