package policy

import (
	"encoding/json"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/api/initdata"
)

// initdataClaims gives the document's members as published: aa.toml and cdh.toml
// as objects, the data of a generated pod policy as agent_policy_claims, other
// text as it is.
func initdataClaims(d *initdata.Document) any {
	if d == nil {
		return nil
	}
	out := map[string]any{}
	for k, v := range d.Data {
		out[k] = v
		switch k {
		case initdata.KeyAA, initdata.KeyCDH:
			var m map[string]any
			if _, err := toml.Decode(v, &m); err == nil {
				out[k] = m
			}
		case "policy.rego":
			if c := policyData(v); c != nil {
				out["agent_policy_claims"] = c
			}
		}
	}
	return out
}

const maxPolicyData = 256 << 10

// policyData gives the JSON that generated pod policies assign to policy_data, or
// nil.
func policyData(text string) map[string]any {
	_, rest, ok := strings.Cut(text, "policy_data :=")
	if !ok || len(rest) > maxPolicyData {
		return nil
	}
	var m map[string]any
	if err := json.NewDecoder(strings.NewReader(rest)).Decode(&m); err != nil {
		return nil
	}
	return m
}

// InitdataClaims gives what a document says as it stands in a token; nil for none.
func InitdataClaims(d *initdata.Document) any {
	m, ok := initdataClaims(d).(map[string]any)
	if !ok {
		return nil
	}
	return trim(m)
}
