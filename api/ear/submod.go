package ear

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// members of a submodule that are no extensions.
var members = []string{
	"ear.status", "ear.trustworthiness-vector", "ear.appraisal-policy-id", "ear.veraison.annotated-evidence", "ear.coffer",
}

// Reserved reports whether no extension may have a name: a member's, in whatever
// case. Readers of JSON in Go take "Ear.Coffer" for "ear.coffer", and of two the
// last one counts.
func Reserved(name string) bool {
	return slices.ContainsFunc(members, func(m string) bool { return strings.EqualFold(m, name) })
}

type plainSubmod Submod

// MarshalJSON puts the extensions beside the other members.
func (s Submod) MarshalJSON() ([]byte, error) {
	b, err := json.Marshal(plainSubmod(s))
	if err != nil || len(s.Extensions) == 0 {
		return b, err
	}
	b = b[:len(b)-1] // an object with members
	for _, name := range slices.Sorted(maps.Keys(s.Extensions)) {
		if Reserved(name) {
			return nil, fmt.Errorf("extension %.80q is a member of every submodule", name)
		}
		k, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		v, err := json.Marshal(s.Extensions[name])
		if err != nil {
			return nil, fmt.Errorf("extension %.80q: %w", name, err)
		}
		b = append(append(append(append(b, ','), k...), ':'), v...)
	}
	return append(b, '}'), nil
}

// encode gives the JSON of claims. Where no submodule has extensions, it is encoded
// in one go: what a MarshalJSON gives, encoding/json reads once more.
func (c *Claims) encode() ([]byte, error) {
	plain := make(map[string]plainSubmod, len(c.Submods))
	for name, s := range c.Submods {
		if len(s.Extensions) > 0 {
			return json.Marshal(c)
		}
		plain[name] = plainSubmod(s)
	}
	return json.Marshal(struct {
		Profile    string                 `json:"eat_profile"`
		IssuedAt   int64                  `json:"iat"`
		Expires    int64                  `json:"exp"`
		Issuer     string                 `json:"iss,omitempty"`
		VerifierID VerifierID             `json:"ear.verifier-id"`
		Submods    map[string]plainSubmod `json:"submods"`
		ID         string                 `json:"jti,omitempty"`
		Audience   string                 `json:"aud,omitempty"`
	}{c.Profile, c.IssuedAt, c.Expires, c.Issuer, c.VerifierID, plain, c.ID, c.Audience})
}

// UnmarshalJSON takes what is no known member as an extension. A member in another
// case is refused.
func (s *Submod) UnmarshalJSON(b []byte) error {
	var all map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for name := range all {
		if Reserved(name) && !slices.Contains(members, name) {
			return fmt.Errorf("submodule: %.80q is a member in another case", name)
		}
	}
	if err := json.Unmarshal(b, (*plainSubmod)(s)); err != nil {
		return err
	}
	maps.DeleteFunc(all, func(k string, _ any) bool { return slices.Contains(members, k) })
	s.Extensions = nil
	if len(all) > 0 {
		s.Extensions = all
	}
	return nil
}
