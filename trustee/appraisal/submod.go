package appraisal

import (
	"context"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
)

// appraise lets the policy judge one device and gives the token's submodule and
// what the owner's record says of it.
func (p *prepared) appraise(ctx context.Context, a *Attestation, d device, now time.Time) (*ear.Submod, *trusteeapi.Appraisal, error) {
	id := a.Policy
	if id == "" {
		id = policy.DefaultID
	}
	r := d.result
	pol, err := p.policy(id, r.Class)
	if err != nil {
		return nil, nil, err
	}
	v, err := pol.Appraise(ctx, r, d.runtime, p.trust.Values, now)
	if err != nil {
		return nil, nil, err
	}
	sub := &ear.Submod{
		Status: v.Vector.Status(), Vector: v.Vector, PolicyID: id, Evidence: v.Evidence,
		Coffer: &ear.Additions{
			TEE: r.TEE, Simulated: r.Simulated, Debug: r.Debug, Unproven: r.Unproven, Initdata: r.Initdata, Policy: pol.Digest(), Namespace: a.Namespace,
			Unbound: d.unbound,
		},
	}
	for _, e := range v.Extensions {
		if sub.Extensions == nil {
			sub.Extensions = map[string]any{}
		}
		sub.Extensions[e.Name] = e.Value
	}
	rec := &trusteeapi.Appraisal{TEE: r.TEE, Policy: pol.ID(), Digest: pol.Digest(), Status: string(sub.Status), Unproven: r.Unproven}
	for _, c := range r.Checks {
		rec.Checks = append(rec.Checks, trusteeapi.Check(c))
	}
	for _, f := range v.Findings {
		rec.Findings = append(rec.Findings, trusteeapi.Finding(f))
	}
	return sub, rec, nil
}
