package server

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
)

// yes affirms whatever a verifier has let through.
const yes = `package policy
trust_claims := {"executables": 3, "hardware": 2, "configuration": 2, "instance-identity": 2}
`

// A simulated root or simulated evidence is refused by a production namespace even
// when a policy says yes; in a simulated one the hardware claim stays capped.
func TestPolicyCannotMakeSimulationGenuine(t *testing.T) {
	w := newWorld(t)
	ca := tpmtest.NewCA(t, "machine")
	doc := document(t, "pod a")
	w.registerTPM("sim", ca)
	for _, ns := range []string{"default", "sim"} {
		if status, b := w.admin.do("PUT", "/namespaces/"+ns+"/policies/default_cpu", []byte(yes)); status != 200 {
			t.Fatalf("%d %s", status, b)
		}
		w.bindSecret(ns, secretName, "toy", doc)
	}
	w.admin.must("PUT", "/namespaces/default/reference-values/build", tpmtest.References())
	p := w.boot("default", ca, doc, nil)
	p.begin()
	denied(t, w, p.attest(p.evidence(), doc), 403, "simulated-evidence")

	g := w.boot("sim", ca, doc, nil)
	g.begin()
	if a := g.attest(g.evidence(), doc); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	c, err := w.s.tokens.Verify(w.t.Context(), "sim", g.token)
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Submods["cpu0"]; s.Vector.Hardware != ear.UnsafeHardware || s.Status != ear.Warning || !s.Coffer.Simulated || s.Coffer.Policy == "" {
		t.Errorf("submodule %+v", s)
	}
	if a := g.get(secretName); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}

	// The root itself: known as simulated, so never one of production, under any
	// path and in any order.
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Root.Raw}))
	for _, path := range []string{"roots", "ek-roots"} {
		b, _ := json.Marshal(trusteeapi.EKRoot{Certificate: cert})
		if status, out := w.admin.do("POST", "/namespaces/default/"+path, b); status != 409 {
			t.Errorf("%s: %d %s", path, status, out)
		}
	}
	b, _ := json.Marshal(trusteeapi.EKRoot{TEE: "snp", Certificate: cert})
	if status, out := w.admin.do("POST", "/namespaces/default/roots", b); status != 400 {
		t.Errorf("a root for snp in production: %d %s", status, out)
	}
}

// An extension in another case is read as the member of that name by encoding/json:
// a policy could whitewash a debug guest with it.
func TestPolicyCannotHideADebugGuest(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	text := yes + `extensions := [
	{"name": "Ear.Status", "key": 1, "value": "affirming"},
	{"name": "Ear.Trustworthiness-Vector", "key": 2, "value": {"configuration": 2}},
	{"name": "EAR.COFFER", "key": 3, "value": {"debug": false}},
]
`
	if status, b := w.admin.do("PUT", "/namespaces/default/policies/default_cpu", []byte(text)); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	c := w.client("default")
	c.auth(fakeTEE, `""`)
	denied(t, w, c.attest(c.fake(doc, func(e *fakeEvidence) { e.Debug = true }), doc), 403, "policy-extension-invalid")
	if a := c.get(secretName); a.status == 200 {
		t.Error("a debug guest got the secret")
	}
}

// A policy that says nothing releases nothing, in a simulated namespace either.
func TestSilentPolicyReleasesNothing(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("sim", secretName, "toy", doc)
	ca := tpmtest.NewCA(t, "machine")
	w.registerTPM("sim", ca)
	for text, reason := range map[string]string{
		"package policy\n": "status-unacceptable",
		"package policy\ntrust_claims := {\"hardware\": 2}\n": "status-unacceptable",
	} {
		if status, b := w.admin.do("PUT", "/namespaces/sim/policies/default_cpu", []byte(text)); status != 200 {
			t.Fatalf("%d %s", status, b)
		}
		g := w.boot("sim", ca, doc, nil)
		g.begin()
		if a := g.attest(g.evidence(), doc); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		denied(t, w, g.get(secretName), 403, reason)
	}
	bad := "package policy\ntrust_claims := {\"hardwear\": 2}\n"
	if status, b := w.admin.do("PUT", "/namespaces/sim/policies/default_cpu", []byte(bad)); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	g := w.boot("sim", ca, doc, nil)
	g.begin()
	denied(t, w, g.attest(g.evidence(), doc), 403, "policy-claims-invalid")
}

// The owner is told which condition of the policy failed, with both values; the
// guest learns the field.
func TestRefusalNamesTheField(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	text := `package policy
import rego.v1
default executables := 33
trust_claims := {"executables": executables, "hardware": 2, "configuration": 2}
executables := 3 if input.faketee.fact in query_reference_value("facts")
`
	if status, b := w.admin.do("PUT", "/namespaces/default/policies/default_cpu", []byte(text)); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	bundle := &refvalue.Bundle{Version: 1, Provenance: refvalue.Provenance{Tool: "test"}, Sets: []refvalue.Set{}}
	bundle.AddValues("facts", "no", "never")
	bundle.Provenance.Launch = &launch.Inputs{TEE: fakeTEE, Kernel: strings.Repeat("0a", 32), Cmdline: "quiet", VCPUs: 2, MemoryMiB: 512}
	w.admin.must("PUT", "/namespaces/default/reference-values/facts", bundle)
	other := refvalue.Bundle{Version: 1, Sets: []refvalue.Set{}, Values: map[string]any{"unrelated": []any{"x"}}}
	other.Provenance.Launch = &launch.Inputs{TEE: "snp", VCPUs: 2, MemoryMiB: 512}
	w.admin.must("PUT", "/namespaces/default/reference-values/other", other)
	c := w.client("default")
	c.handshake(doc)
	a := c.get(secretName)
	denied(t, w, a, 403, "status-unacceptable")
	rec := w.admin.record(a.err.Record)
	d := rec.Denial
	// The attestation's record has the launch that the values were computed for, of
	// this TEE; the guest learns nothing of it.
	att := w.admin.record(rec.Attestation)
	if refs := att.Appraisals[0].References; len(refs) != 1 || refs[0].Bundle != "facts" || !reflect.DeepEqual(refs[0].Launch, bundle.Provenance.Launch) || refs[0].Values["facts"] == nil {
		t.Errorf("%+v", refs)
	}
	if d.Claim != "cpu0 executables: faketee.fact" || d.Measured != "yes" || d.Expected != `["no", "never"]` || !strings.Contains(d.Source, "bundle facts") {
		t.Errorf("the owner is not told: %+v", d)
	}
	// With the right value the next attestation passes, without a restart.
	bundle.AddValues("facts", "yes")
	w.admin.must("PUT", "/namespaces/default/reference-values/facts", bundle)
	c = w.client("default")
	c.handshake(doc)
	if a := c.get(secretName); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// Signed bundles count with a good signature of an owner whom the namespace knows,
// and until they expire.
func TestSignedReferenceValues(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	text := `package policy
import rego.v1
default executables := 33
trust_claims := {"executables": executables, "hardware": 2, "configuration": 2}
executables := 3 if input.faketee.fact in query_reference_value("facts")
`
	if status, b := w.admin.do("PUT", "/namespaces/default/policies/default_cpu", []byte(text)); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	bundle := &refvalue.Bundle{Version: 1, Provenance: refvalue.Provenance{Tool: "coffer measure"}, Sets: []refvalue.Set{}, Expires: time.Now().UTC().Add(time.Hour).Truncate(time.Second)}
	bundle.AddValues("facts", "yes")
	s, err := refvalue.Sign(bundle, key)
	if err != nil {
		t.Fatal(err)
	}
	put := func(doc string) (int, []byte) {
		return w.admin.do("PUT", "/namespaces/default/reference-values/signed", []byte(doc))
	}
	if status, b := put(s.Raw); status != 400 || !strings.Contains(string(b), "owner") {
		t.Errorf("a stranger's signature: %d %s", status, b)
	}
	owner := w.admin.addOwner("default", pub)
	bent := strings.Split(s.Raw, ".")
	sig := []byte(bent[2])
	if sig[5]++; sig[5] > 'z' || sig[5] == ':' || sig[5] == '[' {
		sig[5] = 'b'
	}
	if status, _ := put(bent[0] + "." + bent[1] + "." + string(sig)); status != 400 {
		t.Errorf("a bent signature: %d", status)
	}
	status, b := put(s.Raw)
	var info trusteeapi.ReferenceValues
	if err := json.Unmarshal(b, &info); status != 200 || err != nil || info.SignedBy != s.KeyID || info.Values != 1 || info.Expires.IsZero() || !strings.Contains(string(info.Provenance), "coffer measure") {
		t.Fatalf("%d %s", status, b)
	}
	try := func() int {
		c := w.client("default")
		c.handshake(doc)
		return c.get(secretName).status
	}
	if got := try(); got != 200 {
		t.Errorf("signed values: %d", got)
	}
	// The owner's key is withdrawn: what it signed ceases to count.
	if status, b := w.admin.do("DELETE", "/namespaces/default/owners/"+owner.ID, nil); status != 204 {
		t.Fatalf("%d %s", status, b)
	}
	if got := try(); got != 403 {
		t.Errorf("after the key's withdrawal: %d", got)
	}
	w.admin.addOwner("default", pub)
	// Bumped by nothing but the clock.
	if status, b := put(s.Raw); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	bundle.AddValues("facts", "more")
	if s, err = refvalue.Sign(bundle, key); err != nil {
		t.Fatal(err)
	}
	if status, b := put(s.Raw); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	if got := try(); got != 200 {
		t.Errorf("registered anew: %d", got)
	}
	old := *bundle
	old.Expires = time.Now().UTC().Add(-time.Hour).Truncate(time.Second)
	expired, err := refvalue.Sign(&old, key)
	if err != nil {
		t.Fatal(err)
	}
	if status, b := put(expired.Raw); status != 400 || !strings.Contains(string(b), "expired") {
		t.Errorf("an expired bundle: %d %s", status, b)
	}
	w.clock.advance(2 * time.Hour)
	if got := try(); got != 403 {
		t.Errorf("after its expiry: %d", got)
	}
}

func TestPolicyAdministration(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "/policies/default_cpu", "package policy\nx := http.send({})", 400},
		{"PUT", "/policies/default_cpu", "package other", 400},
		{"PUT", "/policies/default", yes, 400},
		{"PUT", "/policies/default_toaster", yes, 400},
		{"PUT", "/policies/strict_gpu", yes, 200},
		{"GET", "/policies/strict_gpu", "", 200},
		{"GET", "/policies/default_switch", "", 200}, // embedded
		{"GET", "/policies/other_switch", "", 404},
		{"DELETE", "/policies/strict_gpu", "", 204},
		{"DELETE", "/policies/strict_gpu", "", 404},
		{"PUT", "/allow-unproven", `{"allow_unproven":["nitro","snp-report-v5","nitro"]}`, 200},
		{"PUT", "/allow-unproven", `{"allow_unproven":["Not A Name"]}`, 400},
		{"PUT", "/anchors/cca/trust-anchors", `nonsense`, 400},
		{"PUT", "/anchors/cca/other", `[]`, 400},
		{"PUT", "/anchors/toaster/trust-anchors", `[]`, 400},
		{"DELETE", "/anchors/cca/trust-anchors", ``, 404},
	} {
		if status, b := w.admin.do(c.method, "/namespaces/default"+c.path, []byte(c.body)); status != c.status {
			t.Errorf("%s %s %q: %d %s, want %d", c.method, c.path, c.body, status, b, c.status)
		}
	}
	var n trusteeapi.Namespace
	_, b := w.admin.do("GET", "/namespaces/default", nil)
	if err := json.Unmarshal(b, &n); err != nil || len(n.AllowUnproven) != 2 {
		t.Errorf("%s %v", b, err)
	}
	var l []trusteeapi.Policy
	_, b = w.admin.do("GET", "/namespaces/default/policies", nil)
	if err := json.Unmarshal(b, &l); err != nil || len(l) != 6 || l[0].Embedded || l[0].Text != "" || !l[1].Embedded {
		t.Errorf("%s %v", b, err)
	}
}

func TestCollateralShelf(t *testing.T) {
	w := newWorld(t)
	bundle := func(fetched, body string) []byte {
		return []byte(`{"version":1,"items":[{"origin":"https://kds.example/crl","body":"` + body + `","fetched":"` + fetched + `"}]}`)
	}
	imports := func(b []byte) (out trusteeapi.CollateralImport) {
		t.Helper()
		status, a := w.admin.do("POST", "/collateral", b)
		if err := json.Unmarshal(a, &out); status != 200 || err != nil {
			t.Fatalf("%d %s", status, a)
		}
		return out
	}
	if r := imports(bundle("2026-02-01T00:00:00Z", "AAAA")); r.Taken != 1 {
		t.Errorf("%+v", r)
	}
	if r := imports(bundle("2026-01-01T00:00:00Z", "BBBB")); r.Taken != 0 || r.Older != 1 {
		t.Errorf("an older item replaced a newer one: %+v", r)
	}
	if status, _ := w.admin.do("POST", "/collateral", []byte(`{"version":9}`)); status != 400 {
		t.Errorf("another version: %d", status)
	}
	w.stop()
	w.start() // it is there after a restart
	var l []trusteeapi.Collateral
	_, b := w.admin.do("GET", "/collateral", nil)
	if err := json.Unmarshal(b, &l); err != nil || len(l) != 1 || l[0].Size != 3 {
		t.Errorf("%s %v", b, err)
	}
}
