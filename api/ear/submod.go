package ear

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// members of a submodule that are no extensions.
var members = []string{
	"ear.status", "ear.trustworthiness-vector", "ear.appraisal-policy-id", "ear.veraison.annotated-evidence", "ear.coffer",
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
		if slices.Contains(members, name) {
			return nil, fmt.Errorf("extension %s is a member of every submodule", name)
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

// UnmarshalJSON takes what is no known member as an extension.
func (s *Submod) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, (*plainSubmod)(s)); err != nil {
		return err
	}
	var all map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	maps.DeleteFunc(all, func(k string, _ any) bool { return slices.Contains(members, k) })
	s.Extensions = nil
	if len(all) > 0 {
		s.Extensions = all
	}
	return nil
}
