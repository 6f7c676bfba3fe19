package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/storetest"
)

func (a *adminClient) resourcePolicy(name, resources, text string, methods ...string) *trusteeapi.ResourcePolicy {
	a.t.Helper()
	p := new(trusteeapi.ResourcePolicy)
	b := a.must("PUT", "/namespaces/default/resource-policies/"+name, trusteeapi.ResourcePolicy{
		Name: name, Resources: resources, Methods: methods, Text: "package policy\nimport rego.v1\n" + text,
	})
	if err := json.Unmarshal(b, p); err != nil {
		a.t.Fatal(err)
	}
	return p
}

func (a *adminClient) policyTest(t trusteeapi.PolicyTest) []trusteeapi.PolicyVerdict {
	a.t.Helper()
	var out []trusteeapi.PolicyVerdict
	if err := json.Unmarshal(a.must("POST", "/namespaces/default/policy-tests", t), &out); err != nil {
		a.t.Fatal(err)
	}
	return out
}

// A policy narrows what bindings allow and never widens it.
func TestResourcePolicyNarrows(t *testing.T) {
	w := newWorld(t)
	mine, other := document(t, "pod a"), document(t, "pod b")
	w.bindSecret("default", secretName, "hunter2", mine)
	c, stranger := w.client(""), w.client("")
	c.handshake(mine)
	stranger.handshake(other)
	ok := func() {
		t.Helper()
		if a := c.get(secretName); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	w.admin.resourcePolicy("all", "*", "allow := true", "GET")
	ok()
	denied(t, w, stranger.get(secretName), 403, "secret-unbound")
	if e := w.audit("release"); e[len(e)-1]["policy"] != "all@1" {
		t.Errorf("the audit record names no policy: %v", e[len(e)-1])
	}

	// Every policy that selects the request must allow it.
	w.admin.resourcePolicy("db", "default/db", `allow if data.query.purpose == "start"`, "GET")
	a := c.get(secretName)
	denied(t, w, a, 403, "resource-policy-denied")
	if r := w.admin.record(a.err.Record); !strings.Contains(r.Denial.Source, "db@1") {
		t.Errorf("the owner is not told which policy: %+v", r.Denial)
	}
	if a := c.get(secretName + "?purpose=start"); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	// It is asked before anybody hears whether there is a secret.
	w.admin.must("POST", "/namespaces/default/bindings/default/db/later", trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(mine)}})
	denied(t, w, c.get("default/db/later"), 403, "resource-policy-denied")

	// Other selections are not asked: no prefix of a name, and no other method.
	w.admin.resourcePolicy("db", "default/d", "allow := false", "GET")
	ok()
	w.admin.resourcePolicy("db", secretName, "allow := false", "DELETE")
	ok()
	if s, b := w.admin.do("DELETE", "/namespaces/default/resources/"+secretName, nil); s != 403 || !strings.Contains(string(b), "resource-policy-denied") {
		t.Errorf("delete: %d %s", s, b)
	}
	if s := w.admin.change(secretName, 1, "destroy"); s != 403 {
		t.Errorf("destroy: %d", s)
	}
	if s, _ := w.admin.raw("DELETE", "/kbs/v0/resource/"+secretName, w.admin.token("DELETE", "/kbs/v0/resource/"+secretName), nil); s != 403 {
		t.Errorf("published delete: %d", s)
	}
	w.admin.resourcePolicy("put", "default", "allow if input.admin.key_id == \"somebody\"", "PUT")
	if s, _ := w.admin.do("PUT", "/namespaces/default/resources/"+secretName, []byte("x")); s != 403 {
		t.Errorf("put: %d", s)
	}
	// One that fails while it runs allows nothing.
	w.admin.resourcePolicy("fails", "*", "allow if to_number(data.plugin) == 1", "GET")
	denied(t, w, c.get(secretName), 403, "policy-failed")
	w.stop()
	w.start() // after a restart as well
	n := w.client("")
	n.handshake(mine)
	denied(t, w, n.get(secretName), 403, "policy-failed")
}

// The published path sets the one policy that it knows: of every read, beside the
// bindings, and of no namespace but its own.
func TestPublishedResourcePolicy(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c, stranger := w.client(""), w.client("")
	c.handshake(doc)
	stranger.handshake(document(t, "pod b"))
	const path = "/kbs/v0/resource-policy"
	set := func(base, text string) {
		t.Helper()
		body := `{"policy":"` + b64url([]byte("package policy\nimport rego.v1\n"+text)) + `"}`
		if s, b := w.admin.raw("POST", base+path, w.admin.token("POST", base+path), []byte(body)); s != 200 || len(b) != 0 {
			t.Fatalf("%d %s", s, b)
		}
	}
	names := func(want string) {
		t.Helper()
		if s, b := w.admin.raw("GET", path, w.admin.token("GET", path), nil); s != 200 || string(b) != want {
			t.Errorf("%d %s, want %s", s, b, want)
		}
	}
	names(`[]`)
	set("", "default allow := false\nallow if data[\"resource-path\"][2] == \"other\"")
	names(`["resource-policy"]`)
	denied(t, w, c.get(secretName), 403, "resource-policy-denied")
	// As published, no administrator's change is asked about.
	if s, b := w.admin.do("PUT", "/namespaces/default/resources/"+secretName, []byte("hunter2")); s >= 300 {
		t.Errorf("put: %d %s", s, b)
	}
	set("", "allow := true")
	if a := c.get(secretName); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	denied(t, w, stranger.get(secretName), 403, "secret-unbound")
	set("/ns/sim", "allow := false")
	if a := c.get(secretName); a.status != 200 {
		t.Errorf("another namespace's policy was asked: %d %s", a.status, a.body)
	}
	// What was set for other methods under this name is not replaced unseen.
	w.admin.resourcePolicy("resource-policy", "*", "allow := false", "DELETE")
	body := `{"policy":"` + b64url([]byte("package policy\ndefault allow = true\n")) + `"}`
	if s, b := w.admin.raw("POST", path, w.admin.token("POST", path), []byte(body)); s != 409 {
		t.Errorf("another selection is replaced: %d %s", s, b)
	}
	if s, _ := w.admin.do("DELETE", "/namespaces/default/resources/"+secretName, nil); s != 403 {
		t.Errorf("delete: %d", s)
	}
	found := 0
	for _, e := range w.audit("admin") {
		if strings.Contains(fmt.Sprint(e), "POST /kbs/v0/resource-policy") {
			found++
		}
	}
	if found != 4 { // with the one that was refused: the record comes first
		t.Errorf("%d changes in the audit log, want 4", found)
	}
}

// An administrator's policy for other methods stays also if it comes while the published
// path sets its own.
func TestPublishedResourcePolicyStaysBehindAnother(t *testing.T) {
	var between *storetest.Between
	w := newWorld(t, func(c *Config) {
		c.WrapStore = func(s store.Store) store.Store { between = &storetest.Between{Store: s}; return between }
	})
	const path = "/kbs/v0/resource-policy"
	came := false
	between.Arm("ns/default/resource-policies", func() {
		w.admin.resourcePolicy("resource-policy", "*", "allow := false", "DELETE")
		came = true
	})
	body := `{"policy":"` + b64url([]byte("package policy\ndefault allow = true\n")) + `"}`
	if s, b := w.admin.raw("POST", path, w.admin.token("POST", path), []byte(body)); s != 409 || !came {
		t.Errorf("%d %s, %v", s, b, came)
	}
	var p trusteeapi.ResourcePolicy
	if _, b := w.admin.do("GET", "/namespaces/default/resource-policies/resource-policy", nil); json.Unmarshal(b, &p) != nil || len(p.Methods) != 1 || p.Methods[0] != "DELETE" {
		t.Errorf("in force: %s", b)
	}
}

func TestResourcePolicyVersions(t *testing.T) {
	w := newWorld(t)
	a := w.admin
	a.resourcePolicy("p", "*", "allow := true", "GET")
	if p := a.resourcePolicy("p", "*", "allow := true", "GET"); p.Version != 1 {
		t.Errorf("the same policy again is version %d", p.Version)
	}
	a.resourcePolicy("p", "prod", "allow := true", "GET")
	if s, _ := a.do("DELETE", "/namespaces/default/resource-policies/p", nil); s != 204 {
		t.Fatal(s)
	}
	if p := a.resourcePolicy("p", "*", "allow := false", "GET", "PUT"); p.Version != 3 || p.Actor == "" {
		t.Errorf("%+v", p)
	}
	var l []trusteeapi.ResourcePolicy
	_, b := a.do("GET", "/namespaces/default/resource-policies/p/versions", nil)
	if err := json.Unmarshal(b, &l); err != nil || len(l) != 3 || l[0].Version != 3 || l[1].Resources != "prod" || l[2].Text != "" {
		t.Errorf("%s, %v", b, err)
	}
	var old trusteeapi.ResourcePolicy
	_, b = a.do("GET", "/namespaces/default/resource-policies/p", nil)
	if err := json.Unmarshal(b, &old); err != nil || !strings.Contains(old.Text, "allow := false") {
		t.Errorf("%s, %v", b, err)
	}
	for name, p := range map[string]trusteeapi.ResourcePolicy{
		"no rule": {Name: "x", Resources: "*", Methods: []string{"GET"}, Text: "package policy"}, "no method": {Name: "x", Resources: "*", Text: "package policy\nallow := true"},
		"method": {Name: "x", Resources: "*", Methods: []string{"PATCH"}, Text: "package policy\nallow := true"}, "name": {Name: "y", Resources: "*", Methods: []string{"GET"}, Text: "package policy\nallow := true"},
		"resources": {Name: "x", Resources: "a/*", Methods: []string{"GET"}, Text: "package policy\nallow := true"},
	} {
		raw, _ := json.Marshal(p)
		if s, b := a.do("PUT", "/namespaces/default/resource-policies/x", raw); s != 400 {
			t.Errorf("%s: %d %s", name, s, b)
		}
	}
	// Attestation policies have versions as well.
	a.must("GET", "/namespaces/default/policies/default_cpu", nil)
	if s, b := a.do("PUT", "/namespaces/default/policies/default_cpu", []byte(yes)); s != 200 {
		t.Fatalf("%d %s", s, b)
	}
	var ps []trusteeapi.Policy
	_, b = a.do("GET", "/namespaces/default/policies/default_cpu/versions", nil)
	if err := json.Unmarshal(b, &ps); err != nil || len(ps) != 2 || ps[0].Version != 2 || ps[0].Digest == ps[1].Digest {
		t.Errorf("%s, %v", b, err)
	}
	s, b := a.raw("GET", "/coffer/v1/namespaces/default/policies/default_cpu?version=1", a.token("GET", "/coffer/v1/namespaces/default/policies/default_cpu"), nil)
	if s != 200 || !strings.Contains(string(b), "faketee") {
		t.Errorf("the first version: %d %s", s, b)
	}
}

// A dry run says what a policy would say of recorded evidence, and changes nothing.
func TestPolicyTest(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	w.client("").handshake(doc)
	w.client("").handshake(doc, func(e *fakeEvidence) { e.Debug = true })
	no := "package policy\ntrust_claims := {\"executables\": 33, \"hardware\": 2, \"configuration\": 2}\n"
	v := w.admin.policyTest(trusteeapi.PolicyTest{Kind: "attestation", Name: "default_cpu", Text: no})
	if len(v) != 2 || v[0].Before != "warning" || v[1].Before != "affirming" || v[0].After != "warning" || v[1].After != "warning" || len(v[1].Findings) == 0 {
		t.Errorf("%+v", v)
	}
	v = w.admin.policyTest(trusteeapi.PolicyTest{Kind: "attestation", Name: "default_cpu", Text: fakePolicy()})
	if len(v) != 2 || v[1].After != "affirming" || v[0].After != "warning" { // the debug guest stays capped
		t.Errorf("%+v", v)
	}
	in := `import rego.v1
allow if {
	input.submods.cpu0["ear.status"] == "affirming"
	input.submods.cpu0["ear.veraison.annotated-evidence"].faketee.fact == "yes"
	data["resource-path"][1] == "db"
}`
	v = w.admin.policyTest(trusteeapi.PolicyTest{Kind: "resource", Name: "x", Text: "package policy\n" + in, Resource: secretName})
	if len(v) != 2 || v[0].After != "denied" || v[1].After != "allowed" || v[1].Error != "" {
		t.Errorf("%+v", v)
	}
	one := w.admin.policyTest(trusteeapi.PolicyTest{Kind: "resource", Name: "x", Text: "package policy\n" + in, Resource: "default/other/x", Records: []string{v[1].Record}})
	if len(one) != 1 || one[0].After != "denied" {
		t.Errorf("%+v", one)
	}
	for name, p := range map[string]trusteeapi.PolicyTest{
		"kind": {Kind: "x"}, "text": {Kind: "resource", Name: "x", Text: "x", Resource: secretName}, "resource": {Kind: "resource", Name: "x", Text: "package policy\nallow := true", Resource: "a"},
		"class": {Kind: "attestation", Name: "x", Text: no}, "limit": {Kind: "attestation", Name: "default_cpu", Text: no, Limit: 1000},
	} {
		raw, _ := json.Marshal(p)
		if s, b := w.admin.do("POST", "/namespaces/default/policy-tests", raw); s != 400 {
			t.Errorf("%s: %d %s", name, s, b)
		}
	}
	raw, _ := json.Marshal(trusteeapi.PolicyTest{Kind: "attestation", Name: "default_cpu", Text: no, Records: []string{v[0].Record}})
	if s, b := w.admin.do("POST", "/namespaces/sim/policy-tests", raw); s != 400 {
		t.Errorf("a record of another namespace: %d %s", s, b)
	}
	c := w.client("")
	c.handshake(doc)
	if a := c.get(secretName); a.status != 200 {
		t.Errorf("a dry run changed something: %d %s", a.status, a.body)
	}
}

func TestNamedAppraisalPolicy(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	choose := func(id string) int {
		b, _ := json.Marshal(trusteeapi.AppraisalPolicy{ID: id})
		s, _ := w.admin.do("PUT", "/namespaces/default/appraisal-policy", b)
		return s
	}
	if s := choose("strict"); s != 404 {
		t.Errorf("a policy that is not there: %d", s)
	}
	if s, b := w.admin.do("PUT", "/namespaces/default/policies/strict_cpu", []byte("package policy\ntrust_claims := {\"executables\": 33}\n")); s != 200 {
		t.Fatalf("%d %s", s, b)
	}
	if s := choose("strict"); s != 200 {
		t.Fatal(s)
	}
	c := w.client("")
	c.handshake(doc)
	denied(t, w, c.get(secretName), 403, "status-unacceptable")
	// Without its policy the namespace denies; it does not fall back.
	if s, _ := w.admin.do("DELETE", "/namespaces/default/policies/strict_cpu", nil); s != 204 {
		t.Fatal(s)
	}
	n := w.client("")
	n.auth(fakeTEE, `""`)
	denied(t, w, n.attest(n.fake(doc), doc), 403, "policy-unknown")
	if s := choose("default"); s != 200 {
		t.Fatal(s)
	}
	n = w.client("")
	n.handshake(doc)
	if a := n.get(secretName); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}
