package appraisal

import (
	"context"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// appraise lets the policy judge one device and gives the token's submodule and
// what the owner's record says of it.
func (p *prepared) appraise(ctx context.Context, a *Attestation, d device, now time.Time) (*ear.Submod, *trusteeapi.Appraisal, error) {
	id := a.Policy
	if id == "" {
		id = policy.DefaultID
	}
	pol, err := p.policy(id, d.result.Class)
	if err != nil {
		return nil, nil, err
	}
	v, err := p.judge(ctx, pol, &d, now)
	if err != nil {
		return nil, nil, err
	}
	r := d.result
	sub := &ear.Submod{
		Status: v.Vector.Status(), Vector: v.Vector, PolicyID: id, Evidence: v.Evidence,
		Coffer: &ear.Additions{
			TEE: r.TEE, Simulated: r.Simulated, Debug: r.Debug, Unproven: r.Unproven, Initdata: r.Initdata, Policy: pol.Digest(), Namespace: a.Namespace,
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
	if len(v.Findings) > 0 {
		rec.References, rec.ReferencesOmitted = launches(p.trust.Launches, r.TEE)
	}
	return sub, rec, nil
}

// launches gives the reference values of a TEE that say what launch they were
// computed for, as many as a record has room for, and how many more there are.
func launches(all []tenant.Launch, tee string) (out []trusteeapi.Reference, omitted int) {
	size := 0
	for i := range all {
		l := &all[i]
		if launch.TEE(l.Launch.TEE).Wire() != tee {
			continue
		}
		if size+l.Size > trusteeapi.MaxReferences {
			omitted++
			continue
		}
		size += l.Size
		out = append(out, l.Reference)
	}
	return out, omitted
}
