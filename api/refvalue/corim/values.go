package corim

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// values are the reference values so far, by name.
type values map[string]any

// tag reads one concise tag. Others than CoMID have no values here.
func (v values) tag(raw cbor.RawMessage) error {
	n, content, err := tagged(raw)
	if err != nil {
		return err
	}
	if n != tagCoMID {
		return nil
	}
	var b []byte
	if err := decoder.Unmarshal(content, &b); err != nil {
		return fmt.Errorf("comid: %w", err)
	}
	var m struct {
		Triples triples `cbor:"4,keyasint"`
	}
	if err := decoder.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("comid: %w", err)
	}
	for i := range m.Triples.Reference {
		if err := v.triple(&m.Triples.Reference[i]); err != nil {
			return fmt.Errorf("comid: reference triple %d: %w", i, err)
		}
	}
	return nil
}

// triples is triples-map; what is no reference triple states no reference value.
type triples struct {
	Reference []triple `cbor:"0,keyasint,omitempty"`
}

// triple is reference-triple-record.
type triple struct {
	_            struct{} `cbor:",toarray"`
	Environment  environment
	Measurements []measurement
}

// environment is environment-map.
type environment struct {
	Class    *class          `cbor:"0,keyasint,omitempty"`
	Instance cbor.RawMessage `cbor:"1,keyasint,omitempty"`
	Group    cbor.RawMessage `cbor:"2,keyasint,omitempty"`
}

// class is class-map.
type class struct {
	ID     cbor.RawMessage `cbor:"0,keyasint,omitempty"`
	Vendor string          `cbor:"1,keyasint,omitempty"`
	Model  string          `cbor:"2,keyasint,omitempty"`
	Layer  cbor.RawMessage `cbor:"3,keyasint,omitempty"`
	Index  cbor.RawMessage `cbor:"4,keyasint,omitempty"`
}

// measurement is measurement-map.
type measurement struct {
	Key    cbor.RawMessage   `cbor:"0,keyasint,omitempty"`
	Values measurementValues `cbor:"1,keyasint"`
}

// measurementValues is what of measurement-values-map has a name here.
type measurementValues struct {
	Digests []digest        `cbor:"2,keyasint,omitempty"`
	Raw     cbor.RawMessage `cbor:"4,keyasint,omitempty"`
	Mask    cbor.RawMessage `cbor:"5,keyasint,omitempty"`
	Serial  string          `cbor:"8,keyasint,omitempty"`
	Name    string          `cbor:"11,keyasint,omitempty"`
}

// digest is digest: an algorithm by number or name, and bytes.
type digest struct {
	_         struct{} `cbor:",toarray"`
	Algorithm cbor.RawMessage
	Value     []byte
}

func (v values) triple(t *triple) error {
	e := &t.Environment
	if e.Instance != nil || e.Group != nil {
		return errors.New("of an instance or a group, and would count for every other one")
	}
	var base []string
	if e.Class != nil {
		base = append(base, e.Class.Vendor, e.Class.Model)
	}
	for i := range t.Measurements {
		m := &t.Measurements[i]
		key, err := keyOf(m.Key)
		if err != nil {
			return fmt.Errorf("measurement %d: key: %w", i, err)
		}
		path := join(append(append([]string{}, base...), key, m.Values.Name, m.Values.Serial))
		if err := v.measurement(path, &m.Values); err != nil {
			return fmt.Errorf("measurement %d: %w", i, err)
		}
	}
	return nil
}

// keyOf gives what a measured element's key adds to a name: a text itself, a number
// with "claim" before it, a UUID in its usual form; "": another kind of key.
func keyOf(raw cbor.RawMessage) (string, error) {
	if raw == nil {
		return "", nil
	}
	var text string
	if decoder.Unmarshal(raw, &text) == nil {
		return text, nil
	}
	var n uint64
	if decoder.Unmarshal(raw, &n) == nil {
		return fmt.Sprintf("claim%d", n), nil
	}
	t, _, err := tagged(raw)
	if err != nil || t != tagUUID {
		return "", errors.New("neither a text, a number nor a UUID, so that its value would have another one's name")
	}
	return uuidOf(raw)
}

// join gives a name from what there is.
func join(parts []string) string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, "/")
}

func (v values) measurement(path string, m *measurementValues) error {
	if m.Digests != nil {
		name := join([]string{path, "digests"})
		list, _ := v[name].([]any)
		for _, d := range m.Digests {
			if len(d.Value) == 0 || len(d.Value) > 64 {
				return fmt.Errorf("digest of %d bytes", len(d.Value))
			}
			list = append(list, hex.EncodeToString(d.Value))
		}
		v[name] = list
	}
	if m.Raw == nil {
		return nil
	}
	if m.Mask != nil {
		return errors.New("a raw value with a mask, of which only a part counts")
	}
	n, content, err := tagged(m.Raw)
	if err != nil || n != tagBytes {
		return errors.New("a raw value that is no tagged byte string")
	}
	var b []byte
	if err := decoder.Unmarshal(content, &b); err != nil {
		return fmt.Errorf("raw value: %w", err)
	}
	name, value := join([]string{path, "raw_bytes"}), hex.EncodeToString(b)
	if have, ok := v[name]; ok && have != value {
		return fmt.Errorf("two raw values of the name %.120q", name)
	}
	v[name] = value
	return nil
}
