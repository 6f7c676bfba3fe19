package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// References are named reference values in the engine's form, made once for many
// evaluations. Nil knows none.
type References struct {
	terms  map[string]*ast.Term
	source map[string]string

	lookup Lookup // in the place of terms; nil: terms
	at     string // where lookup asks

	mu       sync.Mutex
	verdicts map[verdictKey]*Verdict
}

// NewReferences takes values by name, and for people where each comes from.
func NewReferences(values map[string]any, source map[string]string) (*References, error) {
	r := &References{terms: make(map[string]*ast.Term, len(values)), source: source}
	for n, x := range values {
		v, err := toValue(x)
		if err != nil {
			return nil, fmt.Errorf("reference value %.80q: %w", n, err)
		}
		r.terms[n] = ast.NewTerm(v)
	}
	return r, nil
}

func (r *References) get(name string) (*ast.Term, bool) {
	if r == nil {
		return ast.NullTerm(), false
	}
	t, ok := r.terms[name]
	if !ok {
		return ast.NullTerm(), false
	}
	return t, true
}

// from says where a value comes from.
func (r *References) from(name string) string {
	if r != nil && r.lookup != nil {
		return "reference value " + short(name) + " of " + r.at
	}
	if r != nil && r.source[name] != "" {
		return "reference value " + short(name) + " of " + r.source[name]
	}
	return "reference value " + short(name)
}

// session is what one evaluation has at hand.
type session struct {
	refs    *References
	queried []Queried
	failed  error // of a lookup
}

type sessionKey struct{}

// queryReferenceValue is the builtin: the value of that name, or null.
func queryReferenceValue(bctx rego.BuiltinContext, a *ast.Term) (*ast.Term, error) {
	s, ok := bctx.Context.Value(sessionKey{}).(*session)
	if !ok {
		return ast.NullTerm(), nil // constant folding, without an evaluation
	}
	name, ok := a.Value.(ast.String)
	if !ok {
		return nil, fmt.Errorf("query_reference_value: %s is not a string", ast.ValueName(a.Value))
	}
	t, known, err := s.refs.find(bctx.Context, string(name))
	if err != nil {
		s.failed = err
		return nil, err
	}
	s.queried = append(s.queried, Queried{string(name), known})
	return t, nil
}

// toValue converts claims. What has no direct form (structs, byte slices, text
// marshalers) goes through encoding/json, so that a policy sees what the token
// says.
func toValue(x any) (ast.Value, error) {
	if v, ok := direct(x); ok {
		return v, nil
	}
	raw, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return ast.InterfaceToValue(v)
}

// direct converts types whose JSON is their own.
func direct(x any) (ast.Value, bool) {
	switch t := x.(type) {
	case nil:
		return ast.NullValue, true
	case bool:
		return ast.Boolean(t), true
	case string:
		return ast.String(t), utf8.ValidString(t)
	case json.Number:
		return ast.Number(t), true
	case int:
		return number(int64(t)), true
	case int8:
		return number(int64(t)), true
	case int16:
		return number(int64(t)), true
	case int32:
		return number(int64(t)), true
	case int64:
		return number(t), true
	case uint8:
		return number(int64(t)), true
	case uint16:
		return number(int64(t)), true
	case uint32:
		return number(int64(t)), true
	case uint64:
		return ast.Number(json.Number(strconv.FormatUint(t, 10))), true
	case []any:
		return list(t)
	case []string:
		return list(t)
	case map[string]any:
		if t == nil {
			return ast.NullValue, true
		}
		pairs := make([][2]*ast.Term, 0, len(t))
		for k, e := range t {
			v, ok := direct(e)
			if !ok || !utf8.ValidString(k) {
				return nil, false
			}
			pairs = append(pairs, [2]*ast.Term{ast.StringTerm(k), ast.NewTerm(v)})
		}
		return ast.NewObject(pairs...), true
	}
	return nil, false
}

func number(n int64) ast.Value { return ast.Number(json.Number(strconv.FormatInt(n, 10))) }

func list[T any](l []T) (ast.Value, bool) {
	if l == nil {
		return ast.NullValue, true
	}
	terms := make([]*ast.Term, 0, len(l))
	for _, e := range l {
		v, ok := direct(e)
		if !ok {
			return nil, false
		}
		terms = append(terms, ast.NewTerm(v))
	}
	return ast.NewArray(terms...), true
}
