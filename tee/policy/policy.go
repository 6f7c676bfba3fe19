// Package policy appraises what verifiers have proven with policies in Rego, in
// the published shape: package `policy`, rules `trust_claims` and `extensions`,
// builtin `query_reference_value` (SPEC.md). Existing policies run unchanged.
//
// Invariants: a policy is compiled once and never on a request; it sees the
// evidence, the reference values and the time, and reaches nothing else: no
// network, no environment, no randomness; what fails, takes too long, or says
// what no policy may say, is a denial. What a policy may never decide (simulated
// evidence, debug guests, unproven verifiers) is for the caller, after it.
//
// Trust zone: trustee and owner; the guest never links it, nor OPA.
package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
)

// Component names the engine in denials.
const Component = "appraisal-policy"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonMalformed denial.Reason = "policy-malformed"      // does not compile, or asks for what no policy gets
	ReasonFailed    denial.Reason = "policy-failed"         // an error while it ran
	ReasonTimeout   denial.Reason = "policy-timeout"        //
	ReasonClaims    denial.Reason = "policy-claims-invalid" // a claim's name or value that AR4SI does not know
	ReasonExtension denial.Reason = "policy-extension-invalid"
)

// Limits.
const (
	MaxSize = 256 << 10       // bytes of a policy's text
	MaxTime = 2 * time.Second // of one evaluation, on a machine that is busy
)

// query evaluates both rules at once; an undefined one gives an empty list.
const query = `claims := [x | x := data.policy.trust_claims]; ext := [x | x := data.policy.extensions]`

// Policy is one version of a policy, compiled. It is immutable and safe for
// concurrent use.
type Policy struct {
	id, digest string
	prepared   rego.PreparedEvalQuery
	reads      reads
}

// Compile prepares a policy under a name. What it gives otherwise is a
// *denial.Denial.
func Compile(id, text string) (*Policy, error) {
	if len(text) > MaxSize {
		return nil, malformed(id, fmt.Errorf("%d bytes, at most %d", len(text), MaxSize))
	}
	m, err := parse(id, text)
	if err != nil {
		return nil, malformed(id, err)
	}
	if !m.Package.Path.Equal(ast.MustParseRef("data.policy")) {
		return nil, malformed(id, fmt.Errorf("%s, not package policy", m.Package))
	}
	looks := readsOf(m) // of the text as it is: to compile it may rewrite it
	q, err := rego.New(
		rego.Query(query), rego.ParsedModule(m), rego.Capabilities(capabilities), rego.StrictBuiltinErrors(true),
		rego.Function1(&rego.Function{
			Name: "query_reference_value", Decl: types.NewFunction(types.Args(types.S), types.A), Memoize: true,
		}, queryReferenceValue),
	).PrepareForEval(context.Background())
	if err != nil {
		return nil, malformed(id, err)
	}
	return &Policy{id: id, digest: DigestOf(text), prepared: q, reads: looks}, nil
}

// DigestOf gives the Digest of a policy with that text.
func DigestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func malformed(id string, err error) error {
	return &denial.Denial{Reason: ReasonMalformed, Component: Component, Claim: "policy " + short(id), Detail: limited(err.Error(), 2048)}
}

// parse takes Rego v1, or else v0, as stored policies of older days are.
func parse(id, text string) (*ast.Module, error) {
	m, err := ast.ParseModuleWithOpts(id+".rego", text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities, AllFutureKeywords: true})
	if err == nil {
		return m, nil
	}
	if m0, err0 := ast.ParseModuleWithOpts(id+".rego", text, ast.ParserOptions{RegoVersion: ast.RegoV0, Capabilities: capabilities}); err0 == nil {
		return m0, nil
	}
	return nil, err
}

// ID gives the name, Digest "sha256:<hex>" of the text.
func (p *Policy) ID() string { return p.id }

// Digest gives "sha256:<hex>" of the text.
func (p *Policy) Digest() string { return p.digest }

// Input is one device's evidence to appraise.
type Input struct {
	// Evidence is the annotated evidence: {"<tee>": claims, "report_data",
	// "init_data", "runtime_data_claims", "init_data_claims"}.
	Evidence   map[string]any
	References *References
	Now        time.Time // for time.now_ns
}

// Extension is what a policy adds to the token.
type Extension struct {
	Name  string `json:"name"`
	Key   int32  `json:"key"`
	Value any    `json:"value"`
}

// Verdict is what a policy says.
type Verdict struct {
	Vector     ear.Vector
	Extensions []Extension
	// Queried lists the reference values that were asked for, each once.
	Queried []Queried
}

// Queried is one use of query_reference_value.
type Queried struct {
	Name  string `json:"name"`
	Known bool   `json:"known"`
}

// Evaluate runs the policy, or repeats what it said with the same reference values of
// evidence that is the same wherever it looks. What is refused is a *denial.Denial.
func (p *Policy) Evaluate(ctx context.Context, in *Input) (*Verdict, error) {
	if in.References != nil && in.References.lookup == nil {
		if k, ok := p.key(in.Evidence); ok {
			return in.References.verdict(k, func() (*Verdict, error) { return p.run(ctx, in) })
		}
	}
	return p.run(ctx, in)
}

func (p *Policy) run(ctx context.Context, in *Input) (*Verdict, error) {
	v, err := toValue(in.Evidence)
	if err != nil {
		return nil, p.deny(ReasonFailed, "input", err)
	}
	return p.evaluate(ctx, in, v)
}

func (p *Policy) evaluate(ctx context.Context, in *Input, v ast.Value, opts ...rego.EvalOption) (*Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, MaxTime)
	defer cancel()
	s := &session{refs: in.References}
	opts = append(opts, rego.EvalParsedInput(v), rego.EvalTime(in.Now))
	rs, err := p.prepared.Eval(context.WithValue(ctx, sessionKey{}, s), opts...)
	switch {
	case s.failed != nil:
		return nil, s.failed
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, p.deny(ReasonTimeout, "evaluation", fmt.Errorf("not done after %s", MaxTime))
	case err != nil:
		return nil, p.deny(ReasonFailed, "evaluation", err)
	case len(rs) != 1:
		return nil, p.deny(ReasonFailed, "evaluation", fmt.Errorf("%d results", len(rs)))
	}
	out := &Verdict{Queried: s.queried}
	if out.Vector, err = p.claims(rs[0].Bindings["claims"]); err != nil {
		return nil, err
	}
	if out.Extensions, err = p.extensions(rs[0].Bindings["ext"]); err != nil {
		return nil, err
	}
	return out, nil
}

func (p *Policy) deny(reason denial.Reason, what string, err error) error {
	return &denial.Denial{Reason: reason, Component: Component, Claim: "policy " + short(p.id) + ": " + what, Detail: limited(err.Error(), 2048)}
}

func short(s string) string { return limited(s, 80) }

func limited(s string, n int) string {
	if len(s) > n {
		return s[:n] + "..."
	}
	return s
}
