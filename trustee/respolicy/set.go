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

// In gives the set in force inside of a transaction. It compiles only after a
// change.
func (p *Policies) In(tx store.Tx, ns string) (*Set, error) {
	g, err := generation(tx, ns)
	if err != nil {
		return nil, err
	}
	if g == 0 {
		return &Set{}, nil
	}
	at := p.prepared(ns)
	at.Lock()
	defer at.Unlock()
	if at.set != nil && at.set.generation == g {
		return at.set, nil
	}
	all, err := store.List[trusteeapi.ResourcePolicy](tx, tenant.Bucket(ns, current))
	if err != nil {
		return nil, err
	}
	s := &Set{generation: g}
	for _, v := range all {
		c, err := policy.CompileResource(v.Name, v.Text)
		if err != nil {
			return nil, fmt.Errorf("preparing resource policies of namespace %s: %w", ns, err)
		}
		s.rules = append(s.rules, rule{c, v.Version, v.Resources, v.Methods})
	}
	at.set = s
	return s, nil
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
