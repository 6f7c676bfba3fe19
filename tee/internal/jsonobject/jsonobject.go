// Package jsonobject reads one JSON object with its members' names as they are
// spelled: encoding/json matches them without regard to case and lets the last
// of two win, the published evidence codecs do neither.
//
// Invariants: bounded, never panics; two members of one name are an error.
//
// Trust zone: none of its own.
package jsonobject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// maxMembers bounds the members of one object.
const maxMembers = 64

// Members gives the members of the one object that b is, undecoded and uncopied.
// It is an error if b is longer than limit bytes or anything follows the object.
func Members(b []byte, limit int) (map[string]json.RawMessage, error) {
	if len(b) > limit {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), limit)
	}
	s, err := open(b, '{')
	if err != nil {
		return nil, err
	}
	out := map[string]json.RawMessage{}
	for !s.end('}') {
		var name string
		if err := json.Unmarshal(s.value(), &name); err != nil {
			return nil, fmt.Errorf("a member's name: %w", err)
		}
		if _, dup := out[name]; dup {
			return nil, fmt.Errorf("member %.40q comes twice", name)
		}
		if len(out) == maxMembers {
			return nil, fmt.Errorf("more than %d members", maxMembers)
		}
		s.skip(':')
		out[name] = s.value()
		s.skip(',')
	}
	return out, nil
}

// Elements gives the elements of the one array that b is, at most limit of them,
// undecoded and uncopied.
func Elements(b []byte, limit int) ([]json.RawMessage, error) {
	s, err := open(b, '[')
	if err != nil {
		return nil, err
	}
	var out []json.RawMessage
	for !s.end(']') {
		if len(out) == limit {
			return nil, fmt.Errorf("more than %d elements", limit)
		}
		out = append(out, s.value())
		s.skip(',')
	}
	return out, nil
}

// scanner walks over JSON that is known to be valid, so that it only has to find
// where values end.
type scanner struct {
	b   []byte
	off int
}

func open(b []byte, kind byte) (*scanner, error) {
	if !json.Valid(b) {
		return nil, errors.New("not one JSON value")
	}
	s := &scanner{b: b}
	s.space()
	if b[s.off] != kind {
		return nil, fmt.Errorf("not what starts with %c", kind)
	}
	s.off++
	s.space()
	return s, nil
}

func (s *scanner) space() {
	for s.off < len(s.b) && bytes.IndexByte([]byte(" \t\r\n"), s.b[s.off]) >= 0 {
		s.off++
	}
}

func (s *scanner) end(c byte) bool { return s.b[s.off] == c }

// skip passes over a separator, if it is there, and space around it.
func (s *scanner) skip(c byte) {
	if s.space(); s.b[s.off] == c {
		s.off++
		s.space()
	}
}

// value gives the value that starts here, and passes over it.
func (s *scanner) value() json.RawMessage {
	start, depth := s.off, 0
	for s.off < len(s.b) {
		switch c := s.b[s.off]; {
		case c == '"':
			for s.off++; s.b[s.off] != '"'; s.off++ {
				if s.b[s.off] == '\\' {
					s.off++
				}
			}
			if s.off++; depth == 0 {
				return s.b[start:s.off:s.off]
			}
			continue
		case c == '{' || c == '[':
			depth++
		case (c == '}' || c == ']') && depth > 0:
			if depth--; depth == 0 {
				s.off++
				return s.b[start:s.off:s.off]
			}
		case depth == 0 && bytes.IndexByte([]byte(",]} \t\r\n"), c) >= 0:
			return s.b[start:s.off:s.off] // a number or a word
		}
		s.off++
	}
	return s.b[start:s.off:s.off]
}

// Required decodes the member of the given name.
func Required[T any](m map[string]json.RawMessage, name string) (T, error) {
	var v T
	raw, ok := m[name]
	if !ok {
		return v, fmt.Errorf("member %s is missing", name)
	}
	if bytes.Equal(raw, []byte("null")) {
		return v, fmt.Errorf("member %s is null", name)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("member %s: %w", name, err)
	}
	return v, nil
}

// Optional is Required with the zero value for a member that is not there.
func Optional[T any](m map[string]json.RawMessage, name string) (T, error) {
	if _, ok := m[name]; !ok {
		var zero T
		return zero, nil
	}
	return Required[T](m, name)
}

// Only refuses members other than the given ones.
func Only(m map[string]json.RawMessage, names ...string) error {
next:
	for have := range m {
		for _, n := range names {
			if have == n {
				continue next
			}
		}
		return fmt.Errorf("unknown member %.40q", have)
	}
	return nil
}
