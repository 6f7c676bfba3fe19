package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/api/ear"
)

// Limits of extensions.
const (
	maxExtensions    = 32
	maxExtensionSize = 8 << 10 // bytes of JSON, all together: tokens travel in headers
)

// claims reads trust_claims: undefined is no statement about anything; an empty
// object, an unknown name or a value out of range is refused, since such a
// policy does not say what its author meant.
func (p *Policy) claims(binding any) (ear.Vector, error) {
	var v ear.Vector
	l, ok := binding.([]any)
	if !ok || len(l) > 1 {
		return v, p.deny(ReasonClaims, "trust_claims", errors.New("not one value"))
	}
	if len(l) == 0 {
		return v, nil
	}
	m, ok := l[0].(map[string]any)
	if !ok || len(m) == 0 {
		return v, p.deny(ReasonClaims, "trust_claims", errors.New("not an object with claims"))
	}
	fields := map[string]*int8{
		"instance-identity": &v.InstanceIdentity, "configuration": &v.Configuration, "executables": &v.Executables,
		"file-system": &v.FileSystem, "hardware": &v.Hardware, "runtime-opaque": &v.RuntimeOpaque,
		"storage-opaque": &v.StorageOpaque, "sourced-data": &v.SourcedData,
	}
	for name, x := range m {
		f, ok := fields[name]
		if !ok {
			return v, p.deny(ReasonClaims, "trust_claims", fmt.Errorf("%.40q is no AR4SI claim", name))
		}
		n, ok := x.(json.Number)
		if !ok {
			return v, p.deny(ReasonClaims, "trust_claims."+name, errors.New("not a number"))
		}
		i, err := n.Int64()
		if err != nil || i < -128 || i > 127 {
			return v, p.deny(ReasonClaims, "trust_claims."+name, fmt.Errorf("%.40s is not an integer from -128 to 127", n))
		}
		*f = int8(i)
	}
	return v, nil
}

// extensions reads extensions: a list of {"name", "key", "value"}.
func (p *Policy) extensions(binding any) ([]Extension, error) {
	l, ok := binding.([]any)
	if !ok || len(l) > 1 {
		return nil, p.deny(ReasonExtension, "extensions", errors.New("not one value"))
	}
	if len(l) == 0 {
		return nil, nil
	}
	raw, err := json.Marshal(l[0])
	if err != nil {
		return nil, p.deny(ReasonExtension, "extensions", err)
	}
	var out []Extension
	switch err := json.Unmarshal(raw, &out); {
	case len(raw) > maxExtensionSize:
		return nil, p.deny(ReasonExtension, "extensions", fmt.Errorf("%d bytes, at most %d", len(raw), maxExtensionSize))
	case err != nil:
		return nil, p.deny(ReasonExtension, "extensions", err)
	case len(out) > maxExtensions:
		return nil, p.deny(ReasonExtension, "extensions", fmt.Errorf("%d, at most %d", len(out), maxExtensions))
	}
	seen := map[string]bool{}
	for _, e := range out {
		if e.Name == "" || len(e.Name) > 128 || seen[e.Name] || ear.Reserved(e.Name) || strings.HasPrefix(strings.ToLower(e.Name), "ear.coffer") {
			return nil, p.deny(ReasonExtension, "extensions", fmt.Errorf("name %.40q is empty, too long, used twice or reserved", e.Name))
		}
		seen[e.Name] = true
	}
	return out, nil
}
