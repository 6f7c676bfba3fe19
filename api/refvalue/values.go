package refvalue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Limits of named values.
const (
	MaxValues     = 4096 // names in a bundle
	MaxListLength = 4096 // elements of one list or object
	maxDepth      = 8
)

// validateValues reports the first named value that is out of bounds.
func (v *Bundle) validateValues() error {
	if len(v.Values) > MaxValues {
		return fmt.Errorf("reference values: %d names, at most %d", len(v.Values), MaxValues)
	}
	for _, n := range slices.Sorted(maps.Keys(v.Values)) {
		if n == "" || len(n) > maxText {
			return errors.New("reference values: a name is empty, or too long")
		}
		if v.Values[n] == nil {
			return fmt.Errorf("reference values: values[%.80q]: null, which is what an unknown name gives", n)
		}
		if err := checkValue(v.Values[n], 1); err != nil {
			return fmt.Errorf("reference values: values[%.80q]: %w", n, err)
		}
	}
	if !v.Expires.IsZero() && (v.Expires.Location() != time.UTC || v.Expires.Nanosecond() != 0) {
		return errors.New("reference values: expires: not in UTC, or not whole seconds")
	}
	return nil
}

func checkValue(x any, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	switch t := x.(type) {
	case []any:
		if len(t) > MaxListLength {
			return fmt.Errorf("%d elements, at most %d", len(t), MaxListLength)
		}
		for _, e := range t {
			if err := checkValue(e, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		if len(t) > MaxListLength {
			return fmt.Errorf("%d members, at most %d", len(t), MaxListLength)
		}
		for _, e := range t {
			if err := checkValue(e, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// encodeValues writes the members that follow sets, one name a line.
func (v *Bundle) encodeValues(b *bytes.Buffer) error {
	if len(v.Values) > 0 {
		b.WriteString(",\n\"values\":{")
		for i, n := range slices.Sorted(maps.Keys(v.Values)) {
			if i > 0 {
				b.WriteByte(',')
			}
			key, err := json.Marshal(n)
			if err != nil {
				return fmt.Errorf("encoding reference values: %w", err)
			}
			raw, err := json.Marshal(v.Values[n])
			if err != nil {
				return fmt.Errorf("encoding reference values: %w", err)
			}
			fmt.Fprintf(b, "\n%s:%s", key, raw)
		}
		b.WriteByte('}')
	}
	if !v.Expires.IsZero() {
		fmt.Fprintf(b, ",\n\"expires\":%q", v.Expires.Format(time.RFC3339))
	}
	return nil
}

// AddValues adds to the list of a name.
func (v *Bundle) AddValues(name string, values ...any) {
	if v.Values == nil {
		v.Values = map[string]any{}
	}
	l, _ := v.Values[name].([]any)
	v.Values[name] = append(l, values...)
}

// Expired reports whether the bundle has ceased to count.
func (v *Bundle) Expired(now time.Time) bool { return !v.Expires.IsZero() && !now.Before(v.Expires) }

// Merge gives the named values of several bundles. Lists of one name become one
// list; values of one name that are no lists must be equal.
func Merge(bundles ...*Bundle) (map[string]any, error) {
	out := map[string]any{}
	for _, b := range bundles {
		for n, x := range b.Values {
			have, ok := out[n]
			if !ok {
				out[n] = x
				continue
			}
			a, isA := have.([]any)
			l, isL := x.([]any)
			switch {
			case isA && isL:
				out[n] = append(slices.Clone(a), l...)
			case !equalJSON(have, x):
				return nil, fmt.Errorf("reference values: two bundles give %.80q other values that are no lists", n)
			}
		}
	}
	return out, nil
}

func equalJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
