package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/cofferproject/coffer/api/ear"
)

// Finding says why a claim was not affirmed: the condition of the policy that
// came nearest to holding.
type Finding struct {
	Claim string `json:"claim"` // AR4SI name: "executables"
	Value int    `json:"value"`
	// Field is what was judged, below the input: "snp.measurement".
	Field string `json:"field,omitempty"`
	// Measured is its value, Expected what it was compared with.
	Measured string `json:"measured,omitempty"`
	Expected string `json:"expected,omitempty"`
	// Reference is the name of the reference value, if it was one; Source says
	// where that comes from, or the line of the policy.
	Reference string `json:"reference,omitempty"`
	Source    string `json:"source,omitempty"`
	// Condition is the policy's own text.
	Condition string `json:"condition,omitempty"`
	Line      int    `json:"line,omitempty"`
}

const absent = "absent"

const maxShown = 512 // bytes of a value in a finding

// Explain runs the policy anew, slowly, and says for each claim that was not
// affirmed which condition failed.
func (p *Policy) Explain(ctx context.Context, in *Input) ([]Finding, error) {
	v, err := toValue(in.Evidence)
	if err != nil {
		return nil, p.deny(ReasonFailed, "input", err)
	}
	t := &tracer{ctx: ctx, policy: p, in: in, input: v, rules: map[uint64]*frame{}, best: map[string]*scored{}}
	out, err := p.evaluate(ctx, in, v, rego.EvalQueryTracer(t), rego.EvalRuleIndexing(false), rego.EvalEarlyExit(false))
	if err != nil {
		return nil, err
	}
	var list []Finding
	for name, n := range out.Vector.Map() {
		if tier := ear.TierOf(int8(n)); tier == ear.Affirming || tier == ear.None {
			continue
		}
		f := Finding{Claim: name, Value: n, Source: "policy " + p.id, Condition: "no rule that applies"}
		if b := t.best[name]; b != nil {
			f = b.Finding
			f.Claim, f.Value = name, n
		}
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b Finding) int { return strings.Compare(a.Claim, b.Claim) })
	return list, nil
}

// frame is one query in evaluation: the rule whose body it is.
type frame struct {
	rule   *ast.Rule
	parent uint64
}

// scored is a finding with how far its rule got.
type scored struct {
	Finding
	score int
}

// tracer watches for conditions that fail. It implements topdown.QueryTracer.
type tracer struct {
	ctx    context.Context // of the explanation, which a tracer's methods are not given
	policy *Policy
	in     *Input
	input  ast.Value
	rules  map[uint64]*frame
	best   map[string]*scored
}

const maxFrames = 100_000

// Enabled implements topdown.QueryTracer.
func (t *tracer) Enabled() bool { return len(t.rules) < maxFrames }

// Config implements topdown.QueryTracer.
func (t *tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: true} }

// TraceEvent implements topdown.QueryTracer.
func (t *tracer) TraceEvent(e topdown.Event) {
	switch e.Op {
	case topdown.EnterOp:
		f := &frame{parent: e.ParentID}
		if r, ok := e.Node.(*ast.Rule); ok {
			f.rule = r
		}
		t.rules[e.QueryID] = f
	case topdown.FailOp:
		if expr, ok := e.Node.(*ast.Expr); ok {
			t.failed(&e, expr)
		}
	}
}

// failed notes a condition for the claim whose rule it is in, directly or
// through the rules that that one uses.
func (t *tracer) failed(e *topdown.Event, expr *ast.Expr) {
	claim, depth := "", 0
	var rule *ast.Rule
	for id, n := e.QueryID, 0; n < 64; n++ {
		f, ok := t.rules[id]
		if !ok {
			break
		}
		if f.rule != nil {
			if rule == nil {
				rule = f.rule
			}
			if name := claimOf(f.rule); name != "" {
				claim = name
				break
			}
			depth++
		}
		id = f.parent
	}
	if claim == "" || rule == nil {
		return
	}
	f := t.finding(e, expr, rule)
	if f.Measured == absent && !strings.Contains(f.Field, ".") {
		return // a rule of another TEE
	}
	s := &scored{f, 16*depth + 4*expr.Index}
	if f.Reference != "" {
		s.score += 2
	}
	if f.Measured != "" {
		s.score++
	}
	if have := t.best[claim]; have == nil || s.score > have.score {
		t.best[claim] = s
	}
}

// claimOf gives the AR4SI claim that a rule is named after.
func claimOf(r *ast.Rule) string {
	name := strings.ReplaceAll(string(r.Head.Name), "_", "-")
	if _, ok := (ear.Vector{}).Map()[name]; ok {
		return name
	}
	return ""
}

// finding describes a condition that failed.
func (t *tracer) finding(e *topdown.Event, expr *ast.Expr, rule *ast.Rule) Finding {
	f := Finding{}
	if loc := expr.Location; loc != nil {
		f.Condition, f.Line = limited(string(loc.Text), maxShown), loc.Row
	}
	f.Source = fmt.Sprintf("policy %s line %d", t.policy.id, f.Line)
	for _, o := range t.operands(e, expr, rule) {
		switch {
		case o.reference != "":
			f.Reference, f.Source, f.Expected = o.reference, t.in.References.from(o.reference), show(o.value)
			if _, known, err := t.in.References.find(t.ctx, o.reference); err == nil && !known {
				f.Expected = "none registered"
			}
		case o.field != "" && f.Field == "":
			f.Field, f.Measured = o.field, absent
			if o.value != nil {
				f.Measured = show(o.value)
			}
		case o.value != nil && f.Expected == "":
			f.Expected = show(o.value)
		}
	}
	return f
}

func show(v ast.Value) string {
	if v == nil {
		return ""
	}
	return limited(strings.Trim(v.String(), `"`), maxShown)
}

// operand is one side of a condition.
type operand struct {
	field     string // below the input
	reference string // name of a reference value
	value     ast.Value
}

// operands gives the sides. The compiler moves nested terms into expressions of
// their own before the condition; the body tells what a variable stands for.
func (t *tracer) operands(e *topdown.Event, expr *ast.Expr, rule *ast.Rule) []operand {
	var terms []*ast.Term
	if expr.IsCall() {
		terms = expr.Operands()
		if name := expr.Operator().String(); name == "query_reference_value" && len(terms) > 0 {
			return []operand{t.reference(e, terms[0])}
		}
	} else if x, ok := expr.Terms.(*ast.Term); ok {
		terms = []*ast.Term{x}
	}
	var out []operand
	for _, x := range terms {
		out = append(out, t.operand(e, x, rule, 0))
	}
	return out
}

func (t *tracer) operand(e *topdown.Event, x *ast.Term, rule *ast.Rule, depth int) operand {
	switch v := x.Value.(type) {
	case ast.Var:
		o := operand{value: lookup(e, x.Value)}
		if depth < 4 {
			if src := origin(rule.Body, v); src != nil {
				from := t.source(e, src, v, rule, depth+1)
				o.field, o.reference = from.field, from.reference
				if o.value == nil {
					o.value = from.value
				}
			}
		}
		return o
	case ast.Ref:
		return t.ref(e, v, rule, depth)
	}
	return operand{value: x.Value}
}

// ref resolves a reference into the input.
func (t *tracer) ref(e *topdown.Event, r ast.Ref, rule *ast.Rule, depth int) operand {
	if head, ok := r[0].Value.(ast.Var); ok && !r[0].Equal(ast.InputRootDocument) {
		if r[0].Equal(ast.DefaultRootDocument) {
			return operand{}
		}
		o := t.operand(e, ast.NewTerm(head), rule, depth+1)
		o.value = nil
		return o
	}
	var path []string
	value := t.input
	for _, x := range r[1:] {
		k := x.Value
		if _, ok := k.(ast.Var); ok {
			if k = lookup(e, k); k == nil {
				path, value = append(path, "[_]"), nil
				continue
			}
		}
		path = append(path, strings.Trim(k.String(), `"`))
		if value == nil {
			continue
		}
		next, err := value.Find(ast.Ref{ast.NewTerm(k)})
		if err != nil {
			next = nil
		}
		value = next
	}
	return operand{field: strings.Join(path, "."), value: value}
}

func (t *tracer) reference(e *topdown.Event, x *ast.Term) operand {
	name := x.Value
	if _, ok := name.(ast.Var); ok {
		name = lookup(e, name)
	}
	s, ok := name.(ast.String)
	if !ok {
		return operand{}
	}
	term, _, err := t.in.References.find(t.ctx, string(s))
	if err != nil {
		return operand{reference: string(s)}
	}
	return operand{reference: string(s), value: term.Value}
}

// source gives what an expression of the body gives to a variable.
func (t *tracer) source(e *topdown.Event, expr *ast.Expr, v ast.Var, rule *ast.Rule, depth int) operand {
	ops := expr.Operands()
	if expr.Operator().String() == "query_reference_value" {
		return t.reference(e, ops[0])
	}
	for _, x := range ops {
		if o, ok := x.Value.(ast.Var); ok && o == v {
			continue
		}
		if o := t.operand(e, x, rule, depth); o.field != "" || o.reference != "" {
			return o
		}
	}
	return operand{}
}

// origin finds the call or equation that gives v its value.
func origin(body ast.Body, v ast.Var) *ast.Expr {
	for _, expr := range body {
		if !expr.IsCall() {
			continue
		}
		ops := expr.Operands()
		if len(ops) < 2 {
			continue
		}
		places := ops[len(ops)-1:]
		if expr.IsEquality() || expr.IsAssignment() {
			places = ops
		}
		for _, x := range places {
			if o, ok := x.Value.(ast.Var); ok && o == v {
				return expr
			}
		}
	}
	return nil
}

func lookup(e *topdown.Event, v ast.Value) ast.Value {
	if e.Locals == nil {
		return nil
	}
	return e.Locals.Get(v)
}
