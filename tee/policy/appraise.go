package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/tee/verify"
)

// MaxClaim is the largest member of initdata or of claims that a token repeats;
// of a larger one it has the digest. Tokens travel in HTTP headers.
const MaxClaim = 4 << 10

// MaxEventsClaim is that of the texts of run-time events. A guest of ours records
// no more (guest/keyholder), so that its tokens have them all.
const MaxEventsClaim = 16 << 10

// Appraised is what one device's verified evidence is worth.
type Appraised struct {
	// Evidence is the annotated evidence as a token carries it.
	Evidence map[string]any
	// Vector is the policy's, capped where no policy decides.
	Vector     ear.Vector
	Extensions []Extension
	// Findings say why the policy did not affirm.
	Findings []Finding
}

// Appraise lets the policy judge a result, and then applies the two rules that are
// no policy's: the configuration of a debug guest and the hardware of a simulated
// one are below affirming. runtime is the structured runtime data, nil if unknown.
func (p *Policy) Appraise(ctx context.Context, r *verify.Result, runtime map[string]any, refs *References, now time.Time) (*Appraised, error) {
	claims := maps.Clone(r.Claims)
	evidence := map[string]any{r.TEE: claims}
	if x, ok := claims["report_data"]; ok {
		evidence["report_data"], evidence["runtime_data_claims"] = x, runtime
		delete(claims, "report_data")
	}
	if x, ok := claims["init_data"]; ok {
		evidence["init_data"], evidence["init_data_claims"] = x, initdataClaims(r.InitdataDoc)
		delete(claims, "init_data")
	}
	in := &Input{Evidence: evidence, References: refs, Now: now}
	v, err := p.Evaluate(ctx, in)
	if err != nil {
		return nil, err
	}
	out := &Appraised{Evidence: evidence, Vector: v.Vector, Extensions: v.Extensions}
	if v.Vector.Status() != ear.Affirming {
		if out.Findings, err = p.Explain(ctx, in); err != nil {
			return nil, err
		}
	}
	if r.Debug {
		out.Vector.Configuration = capped(out.Vector.Configuration, ear.UnsafeConfig)
	}
	if r.Simulated {
		out.Vector.Hardware = capped(out.Vector.Hardware, ear.UnsafeHardware) // last of all
	}
	evidence[r.TEE] = trim(claims)
	if m, ok := evidence["init_data_claims"].(map[string]any); ok {
		evidence["init_data_claims"] = trim(m)
	}
	return out, nil
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
		var raw []byte
		switch t := x.(type) {
		case nil, bool, int, int64, uint8, uint32, uint64, float64:
			continue
		case string:
			raw = []byte(t)
		default:
			var err error
			if raw, err = json.Marshal(x); err != nil {
				continue // the signer says what is wrong with it
			}
		}
		limit := MaxClaim
		if k == verify.ClaimRuntimeEvents {
			limit = MaxEventsClaim
		}
		if len(raw) > limit {
			s := sha256.Sum256(raw)
			out[k] = map[string]any{"sha256": hex.EncodeToString(s[:])}
		}
	}
	return out
}
