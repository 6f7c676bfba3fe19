package mutations

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/api/denial"
)

// snpPath names a value of the evidence JSON: members and indexes.
type snpPath []any

// value finds the path's value and gives what sets it.
func (p snpPath) value(doc any) (v any, set func(any), err error) {
	for _, step := range p {
		switch s := step.(type) {
		case string:
			m, ok := doc.(map[string]any)
			if !ok {
				return nil, nil, fmt.Errorf("%v: no object at %s", p, s)
			}
			doc, set = m[s], func(v any) { m[s] = v }
		case int:
			l, ok := doc.([]any)
			if !ok || s >= len(l) {
				return nil, nil, fmt.Errorf("%v: no item %d", p, s)
			}
			doc, set = l[s], func(v any) { l[s] = v }
		}
	}
	return doc, set, nil
}

func snpDecode(e json.RawMessage) (any, error) {
	d := json.NewDecoder(bytes.NewReader(e))
	d.UseNumber()
	var doc any
	err := d.Decode(&doc)
	return doc, err
}

// snpField is an array of bytes, or an unsigned integer of size bytes.
func snpField(size int, path snpPath, reasons ...denial.Reason) Field {
	return Field{
		Name: strings.Trim(fmt.Sprint([]any(path)), "[]"), Reasons: reasons,
		Get: func(e json.RawMessage) ([]byte, error) {
			doc, err := snpDecode(e)
			if err != nil {
				return nil, err
			}
			v, _, err := path.value(doc)
			if err != nil {
				return nil, err
			}
			if n, ok := v.(json.Number); ok {
				u, err := strconv.ParseUint(n.String(), 10, 64)
				return binary.LittleEndian.AppendUint64(nil, u)[:size], err
			}
			l, ok := v.([]any)
			if !ok {
				return nil, fmt.Errorf("%v: neither number nor array", path)
			}
			out := make([]byte, len(l))
			for i, x := range l {
				n, ok := x.(json.Number)
				if !ok {
					return nil, errors.New("not a number")
				}
				u, err := strconv.ParseUint(n.String(), 10, 8)
				if err != nil {
					return nil, err
				}
				out[i] = byte(u)
			}
			return out, nil
		},
		Set: func(e json.RawMessage, b []byte) (json.RawMessage, error) {
			doc, err := snpDecode(e)
			if err != nil {
				return nil, err
			}
			v, set, err := path.value(doc)
			if err != nil {
				return nil, err
			}
			if _, ok := v.(json.Number); ok {
				set(binary.LittleEndian.Uint64(append(slices.Clone(b), make([]byte, 8)...)))
			} else {
				l := make([]any, len(b))
				for i, x := range b {
					l[i] = x
				}
				set(l)
			}
			return json.Marshal(doc)
		},
	}
}
