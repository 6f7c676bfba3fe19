package policy

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// published is a policy as users of the published trustee write them.
const published = `package policy

import rego.v1

default executables := 33
default hardware := 97
default configuration := 36

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
}

executables := 3 if {
	input.snp
	input.snp.measurement in query_reference_value("snp_launch_measurement")
}

hardware := 2 if {
	input.snp
	tcb_ok
}

tcb_ok if {
	input.snp.reported_tcb_bootloader in query_reference_value("snp_bootloader")
}

configuration := 2 if {
	input.snp.policy_debug_allowed == false
}

extensions := [{"name": "ear.trustee.identifiers", "key": -18, "value": {"validated": {"container_images": images}}}] if {
	images := [c | c := input.init_data_claims.images[_]]
}
`

func references(t testing.TB) *References {
	t.Helper()
	r, err := NewReferences(map[string]any{
		"snp_launch_measurement": []any{"aa", "bb"}, "snp_bootloader": []any{3, 4},
	}, map[string]string{"snp_launch_measurement": "bundle build"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func evidence() map[string]any {
	return map[string]any{
		"snp": map[string]any{
			"measurement": "bb", "reported_tcb_bootloader": uint8(4), "policy_debug_allowed": false,
		},
		"report_data": "00", "init_data_claims": map[string]any{"images": []string{"a", "b"}},
	}
}

func mustCompile(t testing.TB, id, text string) *Policy {
	t.Helper()
	p, err := Compile(id, text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func reason(err error) denial.Reason {
	d, ok := denial.As(err)
	if !ok || d.Component == "" || d.Claim == "" {
		return ""
	}
	return d.Reason
}

func TestPublishedPolicy(t *testing.T) {
	p := mustCompile(t, "default_cpu", published)
	v, err := p.Evaluate(t.Context(), &Input{Evidence: evidence(), References: references(t), Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	if v.Vector != (ear.Vector{Executables: 3, Hardware: 2, Configuration: 2}) {
		t.Errorf("vector %+v", v.Vector)
	}
	if len(v.Extensions) != 1 || v.Extensions[0].Key != -18 || v.Extensions[0].Name != "ear.trustee.identifiers" {
		t.Errorf("extensions %+v", v.Extensions)
	}
	if len(v.Queried) != 2 {
		t.Errorf("queried %+v", v.Queried)
	}
	if f, err := p.Explain(t.Context(), &Input{Evidence: evidence(), References: references(t), Now: noon}); err != nil || len(f) != 0 {
		t.Errorf("findings %+v, %v", f, err)
	}
}

func TestExplainNamesTheField(t *testing.T) {
	p := mustCompile(t, "default_cpu", published)
	e := evidence()
	snp := e["snp"].(map[string]any)
	snp["measurement"], snp["reported_tcb_bootloader"], snp["policy_debug_allowed"] = "cc", 2, true
	in := &Input{Evidence: e, References: references(t), Now: noon}
	f, err := p.Explain(t.Context(), in)
	if err != nil || len(f) != 3 {
		t.Fatalf("%+v, %v", f, err)
	}
	want := []Finding{
		{Claim: "configuration", Value: 36, Field: "snp.policy_debug_allowed", Measured: "true", Expected: "false"},
		{Claim: "executables", Value: 33, Field: "snp.measurement", Measured: "cc", Expected: `["aa", "bb"]`, Reference: "snp_launch_measurement"},
		{Claim: "hardware", Value: 97, Field: "snp.reported_tcb_bootloader", Measured: "2", Expected: "[3, 4]", Reference: "snp_bootloader"},
	}
	for i, w := range want {
		g := f[i]
		if g.Claim != w.Claim || g.Value != w.Value || g.Field != w.Field || g.Measured != w.Measured || g.Expected != w.Expected || g.Reference != w.Reference || g.Condition == "" || g.Line == 0 {
			t.Errorf("finding %+v, want %+v", g, w)
		}
	}
	if !strings.Contains(f[1].Source, "bundle build") {
		t.Errorf("source %q", f[1].Source)
	}
	in.References = nil
	if f, err = p.Explain(t.Context(), in); err != nil || f[1].Expected != "none registered" {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestRegoV0(t *testing.T) {
	p := mustCompile(t, "old", `package policy
default executables = 33
trust_claims = {"executables": executables}
executables = 3 {
	m := query_reference_value("snp_launch_measurement")
	input.snp.measurement == m[_]
}
`)
	v, err := p.Evaluate(t.Context(), &Input{Evidence: evidence(), References: references(t), Now: noon})
	if err != nil || v.Vector.Executables != 3 {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err = p.Evaluate(t.Context(), &Input{Evidence: evidence(), Now: noon}); err != nil || v.Vector.Executables != 33 {
		t.Errorf("without reference values %+v, %v", v, err)
	}
}

func TestUndefinedIsNoStatement(t *testing.T) {
	p := mustCompile(t, "x", "package policy\n\ntrust_claims := {\"hardware\": 2} if input.nothing\n")
	v, err := p.Evaluate(t.Context(), &Input{Evidence: evidence(), Now: noon})
	if err != nil || v.Vector != (ear.Vector{}) || v.Vector.Status() != ear.None {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		text   string
		reason denial.Reason
	}{
		"syntax":                {"package policy\ntrust_claims := {", ReasonMalformed},
		"package":               {"package other\ntrust_claims := {\"hardware\": 2}", ReasonMalformed},
		"network":               {"package policy\ntrust_claims := {\"hardware\": 2} if http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1\"})", ReasonMalformed},
		"resolver":              {"package policy\ntrust_claims := {\"hardware\": 2} if net.lookup_ip_addr(\"localhost\")", ReasonMalformed},
		"environment":           {"package policy\ntrust_claims := {\"hardware\": 2} if opa.runtime().env", ReasonMalformed},
		"random":                {"package policy\ntrust_claims := {\"hardware\": rand.intn(\"x\", 3)}", ReasonMalformed},
		"unknown call":          {"package policy\ntrust_claims := {\"hardware\": 2} if no_such(1)", ReasonMalformed},
		"too long":              {"package policy\n#" + strings.Repeat("x", MaxSize), ReasonMalformed},
		"unknown claim":         {"package policy\ntrust_claims := {\"hardwear\": 2}", ReasonClaims},
		"no claim":              {"package policy\ntrust_claims := {}", ReasonClaims},
		"not an object":         {"package policy\ntrust_claims := 2", ReasonClaims},
		"text":                  {"package policy\ntrust_claims := {\"hardware\": \"2\"}", ReasonClaims},
		"too large":             {"package policy\ntrust_claims := {\"hardware\": 128}", ReasonClaims},
		"fraction":              {"package policy\ntrust_claims := {\"hardware\": 2.5}", ReasonClaims},
		"conflict":              {"package policy\nimport rego.v1\nx := 1 if input.snp\nx := 2 if input.snp\ntrust_claims := {\"hardware\": x}", ReasonFailed},
		"builtin error":         {"package policy\nimport rego.v1\ntrust_claims := {\"hardware\": 2} if not startswith(input.snp.reported_tcb_bootloader, \"a\")", ReasonFailed},
		"extension name":        {"package policy\nextensions := [{\"name\": \"ear.status\", \"key\": 1, \"value\": \"affirming\"}]", ReasonExtension},
		"extension in capitals": {"package policy\nextensions := [{\"name\": \"Ear.Trustworthiness-Vector\", \"key\": 1, \"value\": {}}]", ReasonExtension},
		"extension by folding":  {"package policy\nextensions := [{\"name\": \"ear.ſtatus\", \"key\": 1, \"value\": \"affirming\"}]", ReasonExtension},
		"extension of Coffer's": {"package policy\nextensions := [{\"name\": \"EAR.COFFER\", \"key\": 1, \"value\": {\"debug\": false}}]", ReasonExtension},
		"extension size":        {"package policy\nextensions := [{\"name\": \"x\", \"key\": 1, \"value\": \"" + strings.Repeat("y", maxExtensionSize) + "\"}]", ReasonExtension},
		"extension kind":        {"package policy\nextensions := {\"name\": \"x\"}", ReasonExtension},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile("p", c.text)
			if err == nil {
				_, err = p.Evaluate(t.Context(), &Input{Evidence: evidence(), Now: noon})
			}
			if got := reason(err); got != c.reason {
				t.Errorf("%q (%v), want %q", got, err, c.reason)
			}
		})
	}
}

// A policy that would run for ever ends with a denial.
func TestTimeLimit(t *testing.T) {
	p := mustCompile(t, "slow", `package policy
import rego.v1
l := [x | x := input.n[_]]
trust_claims := {"hardware": 2} if {
	some a in l
	some b in l
	some c in l
	some d in l
	a + b + c + d < 0
}
`)
	n := make([]any, 1000)
	for i := range n {
		n[i] = i
	}
	_, err := p.Evaluate(context.Background(), &Input{Evidence: map[string]any{"n": n}, Now: noon})
	if reason(err) != ReasonTimeout {
		t.Error(err)
	}
}

func BenchmarkPublishedPolicy(b *testing.B) {
	p := mustCompile(b, "default_cpu", published)
	in := &Input{Evidence: evidence(), References: references(b), Now: noon}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Evaluate(context.Background(), in); err != nil {
			b.Fatal(err)
		}
	}
}
