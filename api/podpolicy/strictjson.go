package podpolicy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
)

// maxDepth bounds the nesting of a policy document; the deepest legal path has
// far fewer levels.
const maxDepth = 12

// decodeStrict decodes b into v and refuses what encoding/json lets pass:
// unknown, duplicate and differently cased members, null, and trailing bytes.
// Two readers of one document must never see two policies.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := walk(d, reflect.TypeOf(v), "", 0); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("bytes after the document")
	}
	return json.Unmarshal(b, v)
}

// walk reads one JSON value of type t at path.
func walk(d *json.Decoder, t reflect.Type, path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: nested too deeply", at(path))
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	tok, err := d.Token()
	if err != nil {
		return fmt.Errorf("%s: %w", at(path), err)
	}
	switch tok {
	case nil:
		return fmt.Errorf("%s: null", at(path))
	case json.Delim('{'):
		return walkObject(d, t, path, depth)
	case json.Delim('['):
		if t.Kind() != reflect.Slice {
			return fmt.Errorf("%s: an array where %s belongs", at(path), t.Kind())
		}
		for i := 0; d.More(); i++ {
			if err := walk(d, t.Elem(), fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return err
	}
	return nil // scalars: json.Unmarshal checks the type
}

func walkObject(d *json.Decoder, t reflect.Type, path string, depth int) error {
	var members map[string]reflect.Type
	switch t.Kind() {
	case reflect.Struct:
		members = structMembers(t)
	case reflect.Map:
	default:
		return fmt.Errorf("%s: an object where %s belongs", at(path), t.Kind())
	}
	seen := map[string]bool{}
	for d.More() {
		tok, err := d.Token()
		if err != nil {
			return fmt.Errorf("%s: %w", at(path), err)
		}
		name, _ := tok.(string)
		sub := strings.TrimPrefix(path+"."+name, ".")
		if seen[name] {
			return fmt.Errorf("%s: member twice", clip(sub))
		}
		seen[name] = true
		var mt reflect.Type
		if members != nil {
			var ok bool
			if mt, ok = members[name]; !ok {
				return fmt.Errorf("%s: unknown member", clip(sub))
			}
		} else {
			mt = t.Elem()
		}
		if err := walk(d, mt, sub, depth+1); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func structMembers(t reflect.Type) map[string]reflect.Type {
	m := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		m[name] = f.Type
	}
	return m
}

func at(path string) string {
	if path == "" {
		return "document"
	}
	return clip(path)
}

// clip bounds and makes printable whatever a hostile document or request put in a
// string that goes into a message.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, strings.ToValidUTF8(s, "."))
}
