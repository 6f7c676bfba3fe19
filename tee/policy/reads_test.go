package policy

import (
	"context"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestReads(t *testing.T) {
	const rules = "trust_claims := {\"executables\": e}\n\ndefault e := 33\n\n"
	for _, c := range []struct{ name, text, want string }{
		{"names", `e := 3 if { input.snp.measurement == "a"; input["az-snp-vtpm"].tpm.pcr04 == 1 }`, "az-snp-vtpm.tpm.pcr04 snp.measurement"},
		{"below another", `e := 3 if { input.snp; input.snp.measurement == "a" }`, "snp"},
		{"up to what is not a name", `e := 3 if { some i; input.a.b[i].c == input.x[input.y] }`, "a.b x y"},
		{"given on", `f(x) if x.b == 1` + "\n" + `e := 3 if { y := input.a; f(y) }`, "a"},
		{"none", `e := 3 if query_reference_value("x") == 1`, ""},
		{"in a comprehension", `e := 3 if count([x | some x in input.l.m]) > 1`, "l.m"},
	} {
		p, err := Compile("p", "package policy\n\nimport rego.v1\n\n"+rules+c.text)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if p.reads == nil || p.reads.String() != c.want {
			t.Errorf("%s: reads %q, want %q", c.name, p.reads, c.want)
		}
	}
	for name, text := range map[string]string{
		"the input whole":      `e := 3 if object.get(input, "x", 1) == 2`,
		"walks":                `e := 3 if { walk(input, [p, v]); v == 1 }`,
		"a part by a value":    `e := 3 if { some tee; input[tee].measurement == 1 }`,
		"the time":             `e := 3 if time.now_ns() > 5`,
		"the time, given on":   `e := 3 if { x := [time.now_ns()]; x[0] > 5 }`,
		"another input":        `e := 3 if g with input as {"a": input.b}` + "\n" + `g if input.a == 1`,
		"another input's part": `e := 3 if g with input.a as 5` + "\n" + `g if input.a == 1`,
	} {
		p, err := Compile("p", "package policy\n\nimport rego.v1\n\n"+rules+text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.reads != nil {
			t.Errorf("%s: reads %q, want that it cannot be told", name, p.reads)
		}
	}
	p, err := Compile("p", "package policy\n\nimport rego.v1\n\nimport input.snp as s\n\n"+rules+`e := 3 if s.measurement == 1`)
	if err != nil || p.reads != nil {
		t.Errorf("an import of the input: %v, %v", p.reads, err)
	}
}

// TestVerdictsRepeat has every default policy say the same of the same evidence with
// and without its memory, and of evidence that differs in one claim what it says
// without.
func TestVerdictsRepeat(t *testing.T) {
	for _, c := range good {
		p, err := Default(c.class)
		if err != nil {
			t.Fatal(err)
		}
		remembers := 1
		if c.class == "nvidia-dpu" { // takes its part of the whole input with object.get
			remembers = 0
		}
		refs, err := NewReferences(object(t, c.refs), nil)
		if err != nil {
			t.Fatal(err)
		}
		both := func(what string, evidence map[string]any) {
			in := &Input{Evidence: evidence, References: refs, Now: noon}
			fresh, ferr := p.run(context.Background(), in)
			for range 2 {
				v, verr := p.Evaluate(context.Background(), in)
				if !reflect.DeepEqual(v, fresh) || (verr == nil) != (ferr == nil) {
					t.Errorf("%s, %s: %+v, %v, and without memory %+v, %v", c.tee, what, v, verr, fresh, ferr)
				}
			}
		}
		claims := object(t, c.claims)
		both("as it is", map[string]any{c.tee: claims})
		if len(refs.verdicts) != remembers {
			t.Errorf("%s: %d verdicts are remembered, want %d", c.tee, len(refs.verdicts), remembers)
		}
		for k := range claims {
			for _, x := range []any{nil, "other", []any{}, map[string]any{"a": 1}, true} {
				other := maps.Clone(claims)
				other[k] = x
				both(k, map[string]any{c.tee: other})
			}
			without := maps.Clone(claims)
			delete(without, k)
			both("without "+k, map[string]any{c.tee: without})
		}
		both("other initdata", map[string]any{c.tee: claims, "init_data_claims": map[string]any{"agent_policy_claims": map[string]any{
			"containers": []any{map[string]any{"OCI": map[string]any{"Process": map[string]any{"User": map[string]any{"UID": 7}}}}},
		}}})
	}
}

func TestVerdictsOfOtherReferences(t *testing.T) {
	p, err := Compile("p", "package policy\n\nimport rego.v1\n\ntrust_claims := {\"executables\": e}\n\ndefault e := 33\n\ne := 3 if input.t.m in query_reference_value(\"m\")")
	if err != nil {
		t.Fatal(err)
	}
	for want, value := range map[int8]string{3: "a", 33: "b"} {
		refs, err := NewReferences(map[string]any{"m": []any{value}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 { // what the policy does not read may differ
			v, err := p.Evaluate(context.Background(), &Input{Evidence: map[string]any{"t": map[string]any{"m": "a"}, "report_data": strconv.Itoa(i)}, References: refs, Now: time.Now()})
			if err != nil || v.Vector.Executables != want {
				t.Errorf("%+v, %v, want %d", v, err, want)
			}
			v.Queried[0].Known = false // the caller's own
		}
		if len(refs.verdicts) != 1 {
			t.Errorf("%d verdicts for one question", len(refs.verdicts))
		}
		for i := range 2 * maxVerdicts {
			if _, err := p.Evaluate(context.Background(), &Input{Evidence: map[string]any{"t": map[string]any{"m": i}}, References: refs, Now: time.Now()}); err != nil {
				t.Fatal(err)
			}
		}
		if len(refs.verdicts) != maxVerdicts {
			t.Errorf("%d verdicts are kept, want %d", len(refs.verdicts), maxVerdicts)
		}
	}
}

// FuzzVerdictKey looks for two inputs with one key that a policy can tell apart.
func FuzzVerdictKey(f *testing.F) {
	f.Add("a.b", "a.c")
	f.Add("", "k=")
	f.Fuzz(func(t *testing.T, a, b string) {
		shape := func(s string) any {
			var x any = s
			for _, part := range strings.Split(s, ".") {
				switch {
				case strings.HasPrefix(part, "["):
					x = []any{x, part[1:]}
				case strings.HasPrefix(part, "#"):
					x = map[string]any{part[1:]: x}
				case part == "0":
					x = map[string]any{"t": x}
				case part == "nil":
					x = nil
				}
			}
			return x
		}
		p := &Policy{reads: reads{{"t", "m"}, {"u"}}}
		e1, e2 := map[string]any{"t": shape(a), "u": b}, map[string]any{"t": shape(b), "u": a}
		k1, ok1 := p.key(e1)
		k2, ok2 := p.key(e2)
		if ok1 && ok2 && k1 == k2 && a != b {
			t.Errorf("%q and %q have one key", a, b)
		}
	})
}
