package policy

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// References are named reference values in the engine's form, made once for many
// evaluations. Nil knows none.
type References struct {
	terms  map[string]*ast.Term
	source map[string]string
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
	if r != nil && r.source[name] != "" {
		return "reference value " + short(name) + " of " + r.source[name]
	}
	return "reference value " + short(name)
}

// session is what one evaluation has at hand.
type session struct {
	refs    *References
	queried []Queried
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
	t, known := s.refs.get(string(name))
	s.queried = append(s.queried, Queried{string(name), known})
	return t, nil
}

// toValue converts claims. What encoding/json would change on the way (structs,
// byte slices, text marshalers) goes through it, so that a policy sees what the
// token says.
func toValue(x any) (ast.Value, error) {
	if plain(x) {
		return ast.InterfaceToValue(x)
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

// plain reports whether x has only types whose JSON is their own.
func plain(x any) bool {
	switch t := x.(type) {
	case nil, bool, string, json.Number, int, int32, int64, uint64, float64:
		return true
	case []any:
		for _, e := range t {
			if !plain(e) {
				return false
			}
		}
		return true
	case []string:
		return t != nil
	case map[string]any:
		for _, e := range t {
			if !plain(e) {
				return false
			}
		}
		return t != nil
	}
	return false
}
