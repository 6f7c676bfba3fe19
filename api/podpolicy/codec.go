package podpolicy

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Parse reads a policy document and checks all of it: syntax, unknown and
// duplicate members, grammar and bounds. What it returns may be enforced.
func Parse(b []byte) (*Policy, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("parsing pod policy: %d bytes, at most %d", len(b), MaxSize)
	}
	p := new(Policy)
	if err := decodeStrict(b, p); err != nil {
		return nil, fmt.Errorf("parsing pod policy: %w", err)
	}
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("parsing pod policy: %w", err)
	}
	return p, nil
}

// Encode gives the document of a valid policy: the same policy, the same bytes.
func Encode(p *Policy) ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("encoding pod policy: %w", err)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(normal(p)); err != nil {
		return nil, fmt.Errorf("encoding pod policy: %w", err)
	}
	b := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(b) > MaxSize {
		return nil, fmt.Errorf("encoding pod policy: %d bytes, at most %d", len(b), MaxSize)
	}
	return b, nil
}

// normal replaces nil lists whose members are always written by empty ones, so
// that no null appears.
func normal(p *Policy) *Policy {
	q := *p
	q.InitContainers = normalAll(p.InitContainers)
	q.Containers = normalAll(p.Containers)
	return &q
}

func normalAll(cs []Container) []Container {
	out := make([]Container, len(cs))
	for i, c := range cs {
		if c.Env == nil {
			c.Env = []EnvVar{}
		}
		if c.Capabilities == nil {
			c.Capabilities = []string{}
		}
		out[i] = c
	}
	return out
}
