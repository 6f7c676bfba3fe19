package appraisal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
)

// maxClaim is the largest member of initdata or of claims that a token repeats;
// of a larger one it has the digest. Tokens travel in HTTP headers.
const maxClaim = 4 << 10

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
	claims := maps.Clone(r.Claims)
	evidence := map[string]any{r.TEE: claims}
	if x, ok := claims["report_data"]; ok {
		evidence["report_data"], evidence["runtime_data_claims"] = x, d.runtime
		delete(claims, "report_data")
	}
	if x, ok := claims["init_data"]; ok {
		evidence["init_data"], evidence["init_data_claims"] = x, initdataClaims(r.InitdataDoc)
		delete(claims, "init_data")
	}
	in := &policy.Input{Evidence: evidence, References: p.trust.Values, Now: now}
	v, err := pol.Evaluate(ctx, in)
	if err != nil {
		return nil, nil, err
	}
	rec := &trusteeapi.Appraisal{TEE: r.TEE, Policy: pol.ID(), Digest: pol.Digest(), Unproven: r.Unproven}
	for _, c := range r.Checks {
		rec.Checks = append(rec.Checks, trusteeapi.Check(c))
	}
	if v.Vector.Status() != ear.Affirming {
		found, err := pol.Explain(ctx, in)
		if err != nil {
			return nil, nil, err
		}
		for _, f := range found {
			rec.Findings = append(rec.Findings, trusteeapi.Finding(f))
		}
	}
	vec := v.Vector
	if r.Debug {
		vec.Configuration = capped(vec.Configuration, ear.UnsafeConfig)
	}
	if r.Simulated {
		vec.Hardware = capped(vec.Hardware, ear.UnsafeHardware) // last of all
	}
	evidence[r.TEE] = trim(claims)
	if m, ok := evidence["init_data_claims"].(map[string]any); ok {
		evidence["init_data_claims"] = trim(m)
	}
	sub := &ear.Submod{
		Status: vec.Status(), Vector: vec, PolicyID: id, Evidence: evidence,
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
	rec.Status = string(sub.Status)
	return sub, rec, nil
}

// capped lowers a claim to a limit that warns. What the policy itself objected to
// stays as it is: the release gate takes a simulated result only with exactly the
// limit, that is, if nothing but this rule objects.
func capped(v, limit int8) int8 {
	if t := ear.TierOf(v); t == ear.Affirming || t == ear.None {
		return limit
	}
	return v
}

// trim replaces large members by their digests, so that a token stays small.
func trim(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, x := range m {
		out[k] = x
		switch t := x.(type) {
		case nil, bool, int, int64, uint64, float64:
			continue
		case string:
			if len(t) <= maxClaim {
				continue
			}
		}
		raw, err := json.Marshal(x)
		if err != nil || len(raw) <= maxClaim {
			continue // the signer says what is wrong with it
		}
		s := sha256.Sum256(raw)
		if t, ok := x.(string); ok {
			s = sha256.Sum256([]byte(t))
		}
		out[k] = map[string]any{"sha256": hex.EncodeToString(s[:])}
	}
	return out
}
