package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/policy"
)

func resourceInput() *policy.ResourceInput {
	return &policy.ResourceInput{
		Claims: map[string]any{"submods": map[string]any{"cpu0": map[string]any{"ear.status": "affirming", "n": 2}}},
		Plugin: "resource", Path: []string{"default", "db", "password"}, Query: map[string]string{"version": "3"}, Method: "GET",
		Now: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC),
	}
}

func TestResourcePolicy(t *testing.T) {
	for text, want := range map[string]bool{
		`allow := true`:         true,
		`allow := false`:        false,
		`allow := "yes"`:        false,
		`allow if data.nothing`: false,
		`default allow = false
		allow if { data.plugin == "resource" }`: true,
		`allow if { input.submods.cpu0["ear.status"] == "affirming" }`:                      true,
		`allow if { input.submods.cpu0["ear.status"] == "warning" }`:                        false,
		`allow if { data["resource-path"] == ["default", "db", "password"] }`:               true,
		`allow if { data["resource-path"][1] == "db"; data["resource-path"][0] != "prod" }`: true,
		`allow if { some p in data["resource-path"]; p == "password" }`:                     true,
		`allow if { data["resource-path"][7] == "db" }`:                                     false,
		`allow if { data.query.version == "3" }`:                                            true,
		`allow if { data.query.other }`:                                                     false,
		`allow if { count(data.query) == 1 }`:                                               true,
		`allow if { data.method == "GET" }`:                                                 true,
		`allow if { data.method == "DELETE" }`:                                              false,
		`allow if { time.now_ns() == 1795694400000000000 }`:                                 true,
		`allow if { not data.policy.secret }
		secret if false`: true,
	} {
		p, err := policy.CompileResource("t", "package policy\nimport rego.v1\n"+text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := p.Allows(t.Context(), resourceInput()); err != nil || got != want {
			t.Errorf("%s: %t, %v; want %t", text, got, err, want)
		}
	}
}

// What is published must run as it is, in the older Rego too.
func TestPublishedResourcePolicyShapes(t *testing.T) {
	affirming := `package policy
default allow = false
allow {
	count(input["submods"]) > 0
	count([s | s := input["submods"][_]; s["ear.status"] != "affirming"]) == 0
}`
	p, err := policy.CompileResource("affirming", affirming)
	if err != nil {
		t.Fatal(err)
	}
	in := resourceInput()
	if ok, err := p.Allows(t.Context(), in); err != nil || !ok {
		t.Errorf("%t, %v", ok, err)
	}
	in.Claims = map[string]any{"submods": map[string]any{"cpu0": map[string]any{"ear.status": "affirming"}, "gpu0": map[string]any{"ear.status": "warning"}}}
	if ok, err := p.Allows(t.Context(), in); err != nil || ok {
		t.Errorf("a warning is affirmed: %t, %v", ok, err)
	}
	// One evaluation's request is not another's.
	q, err := policy.CompileResource("m", "package policy\nimport rego.v1\nallow if data.method == \"GET\"")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"GET", "DELETE", "GET"} {
		in.Method = m
		if ok, err := q.Allows(t.Context(), in); err != nil || ok != (m == "GET") {
			t.Errorf("%s: %t, %v", m, ok, err)
		}
	}
}

func TestResourcePolicyRefusals(t *testing.T) {
	for name, text := range map[string]string{
		"other package": "package other\nallow := true", "no rule": "package policy\nx := 1", "syntax": "package policy\nallow if {", "empty": "",
		"network": "package policy\nallow if http.send({\"url\": \"http://x\", \"method\": \"get\"}).status == 200", "randomness": "package policy\nallow if rand.intn(\"x\", 2) == 1",
		"environment": "package policy\nallow if opa.runtime().env.HOME", "large": "package policy\nallow := true\n#" + strings.Repeat("x", policy.MaxSize),
	} {
		_, err := policy.CompileResource("t", text)
		if d, ok := denial.As(err); !ok || d.Reason != policy.ReasonMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	slow, err := policy.CompileResource("slow", `package policy
import rego.v1
xs := split("`+strings.Repeat("a,", 3000)+`a", ",")
allow if { some i, x in xs; some j, y in xs; i + j == -1; x == y }`)
	if err != nil {
		t.Fatal(err)
	}
	_, err = slow.Allows(t.Context(), resourceInput())
	if d, ok := denial.As(err); !ok || d.Reason != policy.ReasonTimeout {
		t.Errorf("slow: %v", err)
	}
	bad, err := policy.CompileResource("bad", "package policy\nimport rego.v1\nallow if to_number(data.method) == 1")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := bad.Allows(t.Context(), resourceInput()); ok || err == nil {
		t.Errorf("an error in a builtin: %t, %v", ok, err)
	}
}

func FuzzCompileResource(f *testing.F) {
	f.Add("package policy\nallow := true")
	f.Add("package policy\nimport rego.v1\nallow if input.submods.cpu0[\"ear.status\"] == \"affirming\"")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policy.CompileResource("f", text)
		if err != nil {
			if _, ok := denial.As(err); !ok {
				t.Errorf("an error that is no denial: %v", err)
			}
			return
		}
		_, err = p.Allows(t.Context(), resourceInput())
		if _, ok := denial.As(err); err != nil && !ok {
			t.Errorf("an error that is no denial: %v", err)
		}
	})
}

func BenchmarkResourcePolicy(b *testing.B) {
	p, err := policy.CompileResource("b", "package policy\nimport rego.v1\nallow if { input.submods.cpu0[\"ear.status\"] == \"affirming\"; data[\"resource-path\"][0] == \"default\" }")
	if err != nil {
		b.Fatal(err)
	}
	in := resourceInput()
	for b.Loop() {
		if ok, err := p.Allows(b.Context(), in); err != nil || !ok {
			b.Fatal(ok, err)
		}
	}
}
