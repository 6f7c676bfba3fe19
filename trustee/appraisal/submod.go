package appraisal

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
)

// policyText states the built-in appraisal; its digest is in every token, so
// that a token tells under which rules it was made.
const policyText = `coffer built-in appraisal 1
1. The verifier of the TEE decides; what it refuses gets no token.
2. A debug guest image: configuration 32.
3. Simulated evidence: hardware 32.
`

var policyDigest = func() string {
	s := sha256.Sum256([]byte(policyText))
	return "sha256:" + hex.EncodeToString(s[:])
}()

// maxInitdataClaim is the largest member of initdata that a token repeats; of a
// larger one it has the digest. Tokens travel in HTTP headers.
const maxInitdataClaim = 4 << 10

// submod appraises what was verified and gives the token's submodule.
func submod(a *Attestation, n *trusteeapi.Namespace, key *kbs.TEEKey, v *Verified) (*ear.Submod, error) {
	if v.Simulated != n.Simulated {
		return nil, errors.New("appraisal: the verifier served a namespace of the other kind")
	}
	vec := v.Vector
	if v.Debug {
		vec.Configuration = worse(vec.Configuration, ear.UnsafeConfig)
	}
	if v.Simulated {
		vec.Hardware = worse(vec.Hardware, ear.UnsafeHardware) // last of all
	}
	claims := maps.Clone(v.Claims)
	evidence := map[string]any{a.TEE: claims}
	if r, ok := claims["report_data"]; ok {
		evidence["report_data"] = r
		evidence["runtime_data_claims"] = kbs.RuntimeDataClaims(a.Nonce, key, a.Message.TEEEvidence.Additional)
		delete(claims, "report_data")
	}
	if d, ok := claims["init_data"]; ok {
		evidence["init_data"] = d
		evidence["init_data_claims"] = initdataClaims(v.InitdataDoc)
		delete(claims, "init_data")
	}
	return &ear.Submod{
		Status: vec.Status(), Vector: vec, PolicyID: "default", Evidence: evidence,
		Coffer: &ear.Additions{
			TEE: a.TEE, Simulated: v.Simulated, Debug: v.Debug, Initdata: v.Initdata, Policy: policyDigest, Namespace: a.Namespace,
		},
	}, nil
}

// worse gives the value of the worse tier; of one tier, the first.
func worse(a, b int8) int8 {
	if (ear.Vector{Hardware: a, Configuration: b}).Status() == ear.TierOf(a) {
		return a
	}
	return b
}

// initdataClaims gives the document's members as published: aa.toml and cdh.toml
// as objects, other text as it is while it is short.
func initdataClaims(d *initdata.Document) any {
	if d == nil {
		return nil
	}
	out := map[string]any{}
	for k, v := range d.Data {
		if k == initdata.KeyAA || k == initdata.KeyCDH {
			var m map[string]any
			if _, err := toml.Decode(v, &m); err == nil && len(v) <= 4*maxInitdataClaim {
				out[k] = m
				continue
			}
		}
		if len(v) > maxInitdataClaim {
			s := sha256.Sum256([]byte(v))
			out[k] = map[string]any{"sha256": hex.EncodeToString(s[:])}
			continue
		}
		out[k] = v
	}
	return out
}
