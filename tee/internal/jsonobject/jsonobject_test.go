package jsonobject

import "testing"

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
