package policy

import (
	"context"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Lookup asks somebody for a named reference value; false: there is none. An error
// ends the evaluation, since a policy may as well look for what must not be there.
type Lookup func(ctx context.Context, name string) (value any, known bool, err error)

// LookupReferences are reference values that are asked for when a policy does. The
// lookup has to answer well within MaxTime, and the same for the length of an
// evaluation and its explanation. source says for people where the values are.
func LookupReferences(l Lookup, source string) *References { return &References{lookup: l, at: source} }

// find gives the value of a name, or null.
func (r *References) find(ctx context.Context, name string) (*ast.Term, bool, error) {
	if r == nil || r.lookup == nil {
		t, known := r.get(name)
		return t, known, nil
	}
	x, known, err := r.lookup(ctx, name)
	if err != nil || !known {
		return ast.NullTerm(), false, err
	}
	v, err := toValue(x)
	if err != nil {
		return nil, false, fmt.Errorf("reference value %.80q: %w", name, err)
	}
	return ast.NewTerm(v), true, nil
}
