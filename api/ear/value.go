package ear

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Encoded is JSON that EncodeEvidence has made, so that nobody need read it again to
// put it into more of it. The zero value is null.
type Encoded struct{ raw []byte }

// MarshalJSON gives it as it is.
func (e Encoded) MarshalJSON() ([]byte, error) {
	if e.raw == nil {
		return []byte("null"), nil
	}
	return e.raw, nil
}

// EncodeEvidence gives the JSON of annotated evidence, byte for byte what
// encoding/json gives.
func EncodeEvidence(m map[string]any) (Encoded, error) {
	b, err := appendValue(make([]byte, 0, 4<<10), m)
	return Encoded{b}, err
}

// appendValue appends the JSON of a value. Evidence is maps of plain values, for
// which reflection costs several times as much; what is none of these is for
// encoding/json.
func appendValue(b []byte, v any) ([]byte, error) {
	switch t := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, t), nil
	case string:
		return appendString(b, t)
	case int:
		return strconv.AppendInt(b, int64(t), 10), nil
	case int8:
		return strconv.AppendInt(b, int64(t), 10), nil
	case int64:
		return strconv.AppendInt(b, t, 10), nil
	case uint8:
		return strconv.AppendUint(b, uint64(t), 10), nil
	case uint16:
		return strconv.AppendUint(b, uint64(t), 10), nil
	case uint32:
		return strconv.AppendUint(b, uint64(t), 10), nil
	case uint64:
		return strconv.AppendUint(b, t, 10), nil
	case Encoded:
		if t.raw == nil {
			return append(b, "null"...), nil
		}
		return append(b, t.raw...), nil
	case map[string]any:
		if t == nil {
			return append(b, "null"...), nil
		}
		return appendObject(b, t)
	case []any:
		if t == nil {
			return append(b, "null"...), nil
		}
		return appendList(b, t)
	}
	x, err := json.Marshal(v)
	return append(b, x...), err
}

func appendObject(b []byte, m map[string]any) ([]byte, error) {
	b = append(b, '{')
	for i, name := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendString(b, name); err != nil {
			return nil, err
		}
		if b, err = appendValue(append(b, ':'), m[name]); err != nil {
			return nil, fmt.Errorf("%.80q: %w", name, err)
		}
	}
	return append(b, '}'), nil
}

func appendList(b []byte, l []any) ([]byte, error) {
	b = append(b, '[')
	for i, v := range l {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendValue(b, v); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

// appendString appends a string; one with anything to escape is for encoding/json.
func appendString(b []byte, s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7E || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			x, err := json.Marshal(s)
			return append(b, x...), err
		}
	}
	return append(append(append(b, '"'), s...), '"'), nil
}
