package measure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// judged is one reference held against what was found.
type judged struct {
	against     *Against
	refused     []field
	differences []Difference
	unexplained int
	distance    int // from the launch that was asked for
}

// nearest gives the reference values that the launch comes nearest to.
func (s *search) nearest(ctx context.Context, out *Explanation) *judged {
	var all []*judged
	for i := range s.q.References {
		r := &s.q.References[i]
		refused := s.refusedBy(r)
		if r.Launch == nil || len(refused) == 0 {
			continue // it says nothing of what was refused
		}
		verified, err := s.verify(ctx, r)
		if err != nil {
			out.Notes = append(out.Notes, err.Error())
			continue
		}
		j := &judged{against: &Against{r.Bundle, r.SignedBy, r.Launch, verified}, refused: refused}
		if err := s.compare(j); err != nil {
			out.Notes = append(out.Notes, fmt.Sprintf("reference values %s: %v", r.Bundle, err))
			continue
		}
		all = append(all, j)
	}
	if len(all) == 0 {
		return nil
	}
	return slices.MinFunc(all, func(a, b *judged) int {
		return cmp.Or(cmp.Compare(a.unexplained, b.unexplained), cmp.Compare(len(a.differences), len(b.differences)), cmp.Compare(a.distance, b.distance))
	})
}

// verify computes reference values anew from the launch that their bundle names:
// false where its files are not at hand, an error where it gives others.
func (s *search) verify(ctx context.Context, r *Reference) (bool, error) {
	spec, err := s.spec(r.Launch)
	if err != nil || ctx.Err() != nil {
		return false, nil //nolint:nilerr // what is not at hand proves nothing either way
	}
	m, err := Launch(spec)
	if err != nil {
		return false, nil //nolint:nilerr // as above
	}
	for _, f := range fields[s.q.TEE] {
		l, _ := m.Values[f.reference].([]any)
		for _, v := range l {
			if known, ok := f.gives(r.Values, fmt.Sprint(v)); known && !ok {
				return false, fmt.Errorf("reference values %s do not follow from the launch that they name: %s would be %v", r.Bundle, s.name(f), v)
			}
		}
	}
	return true, nil
}

// compare names the inputs that differ in the registers that were refused.
func (s *search) compare(j *judged) error {
	want := j.against.Launch
	for _, f := range j.refused {
		p := s.found[f.reference]
		if p == nil {
			j.unexplained++
			continue
		}
		n := 0
		for _, what := range f.of {
			if same(what, want, p.inputs) {
				continue
			}
			n++
			i := slices.IndexFunc(j.differences, func(d Difference) bool { return d.Input == what })
			if i < 0 {
				i = len(j.differences)
				d := Difference{Input: what, Expected: shown(what, want), Launched: shown(what, p.inputs)}
				if what == Cmdline {
					d.Changes = argumentChanges(want.Cmdline, p.inputs.Cmdline)
				}
				j.differences = append(j.differences, d)
			}
			j.differences[i].Fields = append(j.differences[i].Fields, s.name(f))
		}
		if n == 0 {
			return errors.New("they do not follow from the launch that they name: the same inputs were measured otherwise")
		}
	}
	if s.asked != nil {
		for _, f := range fields[s.q.TEE] {
			for _, what := range f.of {
				if !same(what, want, s.asked) {
					j.distance++
				}
			}
		}
	}
	return nil
}
