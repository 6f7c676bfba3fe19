package jsonobject

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
)

func TestMembers(t *testing.T) {
	m, err := Members([]byte(` {"a":1,"A":"x","b":[{"a":2,"a":3}]} `), 100)
	if err != nil || len(m) != 3 || string(m["A"]) != `"x"` {
		t.Errorf("%v, %v", m, err)
	}
	if n, err := Required[int](m, "a"); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := Required[int](m, "A"); err == nil {
		t.Error("a string taken for a number")
	}
	if _, err := Required[int](m, "c"); err == nil {
		t.Error("a missing member accepted")
	}
	if s, err := Optional[string](m, "c"); err != nil || s != "" {
		t.Errorf("%q, %v", s, err)
	}
	if err := Only(m, "a", "A", "b"); err != nil {
		t.Error(err)
	}
	if err := Only(m, "a", "b"); err == nil {
		t.Error("unknown member accepted")
	}
	for _, bad := range []string{``, `1`, `null`, `[]`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,"a":2}`, `{"a":1}{}`, `{"a":1}x`, `{a:1}`, `{"a":null`} {
		if _, err := Members([]byte(bad), 100); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
	if _, err := Members([]byte(`{"a":1}`), 6); err == nil {
		t.Error("too long, and accepted")
	}
}

func TestElements(t *testing.T) {
	l, err := Elements([]byte(" [ 1 ,\"a,]\\\"\", [1,[2]] ,{\"b\":\"}\"}, null,true ] "), 6)
	if err != nil || len(l) != 6 || string(l[0]) != "1" || string(l[1]) != `"a,]\""` || string(l[2]) != "[1,[2]]" || string(l[3]) != `{"b":"}"}` || string(l[5]) != "true" {
		t.Errorf("%s, %v", l, err)
	}
	if l, err := Elements([]byte("[]"), 0); err != nil || len(l) != 0 {
		t.Errorf("%s, %v", l, err)
	}
	for _, bad := range []string{"", "{}", "[1", "[1,]", "[1]]", "1", "[1,2,3,4,5,6,7]"} {
		if _, err := Elements([]byte(bad), 6); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

// FuzzMembers compares with encoding/json, which keeps the last of two members.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{`{"a":1,"b":[{"c":"\\\"}"}],"d":{}}`, ` { "a" : -1.5e3 , "\u0062":null } `, `{"a":1,"a":2}`, `[1,"x",{}]`, `{}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := Members(b, 1<<20); err == nil {
			var want map[string]json.RawMessage
			if err := json.Unmarshal(b, &want); err != nil || len(want) != len(m) {
				t.Fatalf("%q: %d members, not %d: %v", b, len(m), len(want), err)
			}
			for k, v := range want {
				if !bytes.Equal(v, m[k]) {
					t.Errorf("%q: %q is %q, not %q", b, k, m[k], v)
				}
			}
		}
		if l, err := Elements(b, 1<<20); err == nil {
			var want []json.RawMessage
			if err := json.Unmarshal(b, &want); err != nil || !slices.EqualFunc(l, want, func(a, c json.RawMessage) bool { return bytes.Equal(a, c) }) {
				t.Errorf("%q: %q, not %q: %v", b, l, want, err)
			}
		}
	})
}

func TestStrict(t *testing.T) {
	type doc struct {
		A int `json:"a"`
	}
	var d doc
	if err := Strict([]byte(" {\"a\": 3}\n"), 20, &d); err != nil || d.A != 3 {
		t.Errorf("%+v, %v", d, err)
	}
	for _, in := range []string{"", "null x", `{"a":3}{}`, `{"a":3} 1`, `{"a":3,"b":1}`, `{"a":"3"}`, `{"a":3`, `{"a":3}              `} {
		if err := Strict([]byte(in), 20, new(doc)); err == nil {
			t.Errorf("%s: accepted", in)
		}
	}
}
