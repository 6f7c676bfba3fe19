package ear

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
func (s Submod) MarshalJSON() ([]byte, error) { return s.append(nil) }

// append appends the JSON of a submodule.
func (s *Submod) append(b []byte) ([]byte, error) {
	b, err := appendString(append(b, `{"ear.status":`...), string(s.Status))
	if err != nil {
		return nil, err
	}
	b = s.Vector.append(append(b, `,"ear.trustworthiness-vector":`...))
	if b, err = appendString(append(b, `,"ear.appraisal-policy-id":`...), s.PolicyID); err != nil {
		return nil, err
	}
	if b, err = appendValue(append(b, `,"ear.veraison.annotated-evidence":`...), s.Evidence); err != nil {
		return nil, fmt.Errorf("annotated evidence: %w", err)
	}
	if s.Coffer != nil {
		if b, err = appendValue(append(b, `,"ear.coffer":`...), s.Coffer); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Extensions)) {
		if Reserved(name) {
			return nil, fmt.Errorf("extension %.80q is a member of every submodule", name)
		}
		if b, err = appendString(append(b, ','), name); err != nil {
			return nil, err
		}
		if b, err = appendValue(append(b, ':'), s.Extensions[name]); err != nil {
			return nil, fmt.Errorf("extension %.80q: %w", name, err)
		}
	}
	return append(b, '}'), nil
}

func (v Vector) append(b []byte) []byte {
	for i, m := range [...]struct {
		name  string
		value int8
	}{
		{`"instance-identity":`, v.InstanceIdentity}, {`"configuration":`, v.Configuration}, {`"executables":`, v.Executables}, {`"file-system":`, v.FileSystem},
		{`"hardware":`, v.Hardware}, {`"runtime-opaque":`, v.RuntimeOpaque}, {`"storage-opaque":`, v.StorageOpaque}, {`"sourced-data":`, v.SourcedData},
	} {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		b = strconv.AppendInt(append(append(b, sep), m.name...), int64(m.value), 10)
	}
	return append(b, '}')
}

// encode gives the JSON of claims. What a MarshalJSON gives, encoding/json reads once
// more, so the submodules are put where it has left room for them.
func (c *Claims) encode() ([]byte, error) {
	head := *c
	head.Submods = nil
	raw, err := json.Marshal(&head)
	if err != nil {
		return nil, err
	}
	before, after, ok := bytes.Cut(raw, []byte(`"submods":null`))
	if !ok || c.Submods == nil {
		return raw, nil
	}
	b := append(append(make([]byte, 0, 8<<10), before...), `"submods":{`...)
	for i, name := range slices.Sorted(maps.Keys(c.Submods)) {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendString(b, name); err != nil {
			return nil, err
		}
		s := c.Submods[name]
		if b, err = s.append(append(b, ':')); err != nil {
			return nil, fmt.Errorf("submodule %.40q: %w", name, err)
		}
	}
	return append(append(b, '}'), after...), nil
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
