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
	"io"
)

// maxMembers bounds the members of one object.
const maxMembers = 64

// Members gives the members of the one object that b is, undecoded. It is an
// error if b is longer than limit bytes or anything follows the object.
func Members(b []byte, limit int) (map[string]json.RawMessage, error) {
	if len(b) > limit {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), limit)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil {
		return nil, notEOF(err)
	} else if t != json.Delim('{') {
		return nil, errors.New("not an object")
	}
	out := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, notEOF(err)
		}
		name, ok := t.(string)
		if !ok {
			return nil, errors.New("a member without a name")
		}
		if _, dup := out[name]; dup {
			return nil, fmt.Errorf("member %.40q comes twice", name)
		}
		if len(out) == maxMembers {
			return nil, fmt.Errorf("more than %d members", maxMembers)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, notEOF(err)
		}
		out[name] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, notEOF(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the object")
	}
	return out, nil
}

// notEOF makes an end in the middle an error of its own.
func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
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
