package respolicy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// generation changes with the policies, so that what is prepared knows when it is out
// of date, on every replica.
func generation(tx store.Tx, ns string) (uint64, error) { return tenant.Generation(tx, ns, mark) }

func bump(tx store.Tx, ns string) error { return tenant.Bump(tx, ns, mark) }

// Set is the policies of one namespace at one generation, compiled.
type Set struct {
	generation uint64
	rules      []rule
}

type rule struct {
	policy   *policy.Resource
	version  uint64
	resource string
	methods  []string
}

// InForce is what In has read: a set, or the texts that one is to be made of.
type InForce struct {
	at         *prepared // nil: there are no policies
	seen       *Set      // what was compiled then
	set        *Set
	generation uint64
	texts      []trusteeapi.ResourcePolicy
	ns         string
}

// In reads what is in force inside of a transaction, the texts only after a change.
// It compiles nothing: a transaction holds up others.
func (p *Policies) In(tx store.Tx, ns string) (*InForce, error) {
	g, err := generation(tx, ns)
	if err != nil {
		return nil, err
	}
	if g == 0 {
		return &InForce{set: &Set{}}, nil
	}
	f := &InForce{at: p.prepared(ns), generation: g, ns: ns}
	if f.seen = f.at.get(); f.seen != nil && f.seen.generation == g {
		f.set = f.seen
		return f, nil
	}
	f.texts, err = store.List[trusteeapi.ResourcePolicy](tx, tenant.Bucket(ns, current))
	return f, err
}

// Set gives the policies that were in force in that transaction. What was compiled
// before, of the same name and text, is not compiled again.
func (f *InForce) Set() (*Set, error) {
	if f.set != nil {
		return f.set, nil
	}
	// Whoever asks meanwhile waits: all of them would compile the same.
	f.at.making.Lock()
	defer f.at.making.Unlock()
	last := f.at.get()
	if last != nil && last.generation == f.generation {
		return last, nil
	}
	s := &Set{generation: f.generation}
	for _, v := range f.texts {
		c, err := last.compiled(v.Name, v.Text)
		if err != nil {
			return nil, fmt.Errorf("preparing resource policies of namespace %s: %w", f.ns, err)
		}
		s.rules = append(s.rules, rule{c, v.Version, v.Resources, v.Methods})
	}
	if last == f.seen { // else another has compiled what it read since, which may be newer
		f.at.put(s)
	}
	return s, nil
}

// compiled gives a policy of the set with that name and text, or compiles it.
func (s *Set) compiled(name, text string) (*policy.Resource, error) {
	if s != nil {
		for i := range s.rules {
			if r := &s.rules[i]; r.policy.ID() == name && r.policy.Digest() == policy.DigestOf(text) {
				return r.policy, nil
			}
		}
	}
	return policy.CompileResource(name, text)
}

// prepared is where a namespace's set is: one that is compiled holds up nobody else.
func (p *Policies) prepared(ns string) *prepared {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sets[ns] == nil {
		p.sets[ns] = new(prepared)
	}
	return p.sets[ns]
}

// selects reports whether a rule is asked about a request.
func (r *rule) selects(resource, method string) bool {
	if !slices.Contains(r.methods, method) {
		return false
	}
	return r.resource == "*" || r.resource == resource || strings.HasPrefix(resource, r.resource+"/")
}

// Asks reports whether any policy is asked about a request.
func (s *Set) Asks(resource, method string) bool {
	return slices.ContainsFunc(s.rules, func(r rule) bool { return r.selects(resource, method) })
}

// Decide asks every policy that selects a resource and a method, and gives their names and
// versions ("prod@3,audit@1"). A refusal is a *denial.Denial.
func (s *Set) Decide(ctx context.Context, name, method string, in *policy.ResourceInput) (string, error) {
	var asked []string
	for _, r := range s.rules {
		if !r.selects(name, method) {
			continue
		}
		ok, err := r.policy.Allows(ctx, in)
		id := fmt.Sprintf("%s@%d", r.policy.ID(), r.version)
		if d, denied := denial.As(err); denied {
			x := *d
			x.Measured, x.Expected, x.Source, x.Detail = d.Detail, "a decision", "resource policy "+id+" ("+r.policy.Digest()+")", ""
			return "", &x
		}
		if err != nil {
			return "", err
		}
		if !ok {
			return "", &denial.Denial{
				Reason: ReasonDenied, Component: policy.ResourceComponent, Claim: "resource " + name, Measured: "allow is not true", Expected: "true",
				Source: "resource policy " + id + " (" + r.policy.Digest() + ")",
			}
		}
		asked = append(asked, id)
	}
	return strings.Join(asked, ","), nil
}
