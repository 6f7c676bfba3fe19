package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// reads are the parts of its input that a policy can look at, as paths of member
// names: what is below none of them has no part in what it says.
//
// Every look at the input is a reference that begins with the variable input, so
// that the paths are those references up to their first part that is not a name.
// Nil: any part, or the policy says something else from one time to the next.
type reads [][]string

// readsOf finds what a policy reads. It knows no more than the text: where that
// leaves a doubt, the answer is nil.
func readsOf(m *ast.Module) reads {
	for _, i := range m.Imports {
		if r, ok := i.Path.Value.(ast.Ref); !ok || len(r) == 0 || r[0].Equal(ast.InputRootDocument) {
			return nil // another name for it
		}
	}
	var paths [][]string
	unsure := false
	var v *ast.GenericVisitor
	v = ast.NewGenericVisitor(func(x any) bool {
		switch t := x.(type) {
		case *ast.With: // another input
			unsure = true
		case ast.Var:
			unsure = unsure || t.Equal(ast.InputRootDocument.Value)
		case ast.Ref:
			if b := ast.BuiltinMap[t.String()]; b != nil && b.Nondeterministic {
				unsure = true
			}
			if len(t) == 0 || !t[0].Equal(ast.InputRootDocument) {
				return false
			}
			var path []string
			for _, e := range t[1:] {
				name, ok := e.Value.(ast.String)
				if !ok {
					break
				}
				path = append(path, string(name))
			}
			if len(path) == 0 {
				unsure = true
			}
			paths = append(paths, path)
			for _, e := range t[1:] { // references within it
				v.Walk(e)
			}
			return true
		}
		return unsure
	})
	v.Walk(m)
	if unsure {
		return nil
	}
	return shortest(paths)
}

// shortest leaves out what lies below another path.
func shortest(paths [][]string) reads {
	slices.SortFunc(paths, slices.Compare)
	out := reads{}
	for _, p := range paths {
		if n := len(out); n > 0 && len(out[n-1]) <= len(p) && slices.Equal(out[n-1], p[:len(out[n-1])]) {
			continue
		}
		out = append(out, p)
	}
	return out
}

// verdictKey names all that decides a verdict but the reference values.
type verdictKey struct {
	policy *Policy
	input  [sha256.Size]byte
}

// maxVerdicts are those that References remember. Pods of one build on machines
// with the same firmware share one.
const maxVerdicts = 256

// key digests what the policy reads; false: it cannot be told.
func (p *Policy) key(evidence map[string]any) (verdictKey, bool) {
	k := verdictKey{policy: p}
	if p.reads == nil {
		return k, false
	}
	d := digester{h: sha256.New()}
	for _, path := range p.reads {
		if !d.at(evidence, path) {
			return k, false
		}
	}
	d.h.Sum(k.input[:0])
	return k, true
}

// digester writes values so that two streams are the same only for the same values:
// each with its kind, and a length where it has one.
type digester struct {
	h   hash.Hash
	buf [9]byte
}

func (d *digester) put(kind byte, n uint64) {
	d.buf[0] = kind
	binary.BigEndian.PutUint64(d.buf[1:], n)
	d.h.Write(d.buf[:])
}

func (d *digester) text(kind byte, s string) {
	d.put(kind, uint64(len(s)))
	d.h.Write([]byte(s))
}

// at writes what is at a path: how far it goes, and the value or none.
func (d *digester) at(x any, path []string) bool {
	for i, name := range path {
		m, ok := x.(map[string]any)
		if !ok {
			d.put('-', uint64(i)) // a policy may tell a list from nothing
			return d.value(x)
		}
		if x, ok = m[name]; !ok {
			d.put('0', uint64(i))
			return true
		}
	}
	d.put('=', uint64(len(path)))
	return d.value(x)
}

func (d *digester) value(x any) bool {
	switch t := x.(type) {
	case map[string]any:
		if t == nil {
			d.put('n', 0)
			return true
		}
		d.put('m', uint64(len(t)))
		for _, k := range slices.Sorted(maps.Keys(t)) {
			d.text('k', k)
			if !d.value(t[k]) {
				return false
			}
		}
		return true
	case []any:
		if t == nil {
			d.put('n', 0)
			return true
		}
		d.put('l', uint64(len(t)))
		for _, e := range t {
			if !d.value(e) {
				return false
			}
		}
		return true
	}
	v, ok := direct(x)
	if !ok {
		return false
	}
	switch t := v.(type) {
	case ast.Null:
		d.put('n', 0)
	case ast.Boolean:
		if d.put('f', 0); t {
			d.put('t', 0)
		}
	case ast.String:
		d.text('s', string(t))
	case ast.Number:
		d.text('#', string(t))
	default: // lists of strings
		d.text('a', v.String())
	}
	return true
}

// verdict gives what the policy said of the same before, or else asks it.
func (r *References) verdict(k verdictKey, ask func() (*Verdict, error)) (*Verdict, error) {
	r.mu.Lock()
	v := r.verdicts[k]
	r.mu.Unlock()
	if v == nil {
		var err error
		if v, err = ask(); err != nil {
			return nil, err
		}
		r.mu.Lock()
		if r.verdicts == nil {
			r.verdicts = map[verdictKey]*Verdict{}
		}
		for old := range r.verdicts {
			if len(r.verdicts) < maxVerdicts {
				break
			}
			delete(r.verdicts, old) // whichever
		}
		r.verdicts[k] = v
		r.mu.Unlock()
	}
	return &Verdict{Vector: v.Vector, Extensions: slices.Clone(v.Extensions), Queried: slices.Clone(v.Queried)}, nil
}

// String is for people and tests.
func (r reads) String() string {
	all := make([]string, len(r))
	for i, p := range r {
		all[i] = strings.Join(p, ".")
	}
	return strings.Join(all, " ")
}
