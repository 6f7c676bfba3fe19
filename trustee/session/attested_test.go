package session

import (
	"encoding/json"
	"testing"
)

var tokens = []string{"e30.eyJhIjoxfQ.AAAA", "..", "", "a.b.c", "e30.e30.e31", "e30.e30", "e30.e30.e30.e30", "e3\n0.e30.e30", "e30=.e30.e30", "not a token"}

// Any text comes back as it was, and a proper token in fewer bytes.
func TestAttestedAtRest(t *testing.T) {
	for _, token := range tokens {
		a := &attested{token, 1 << 40}
		b, err := a.encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeAttested(b); err != nil || *got != *a {
			t.Errorf("%q: %+v, %v", token, got, err)
		}
	}
	if b := (&attested{tokens[0], 1}).compact(); b == nil {
		t.Error("a token is not compact")
	}
	old, err := json.Marshal(attested{tokens[0], 2})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeAttested(old); err != nil || got.Token != tokens[0] || got.Expires != 2 {
		t.Errorf("as it was written before: %+v, %v", got, err)
	}
	good := (&attested{tokens[0], 1}).compact()
	for i := range good {
		if got, err := decodeAttested(good[:i]); err == nil {
			t.Errorf("%d of %d bytes: %+v", i, len(good), got)
		}
	}
	if got, err := decodeAttested(append(good, 0)); err == nil {
		t.Errorf("with a byte more: %+v", got)
	}
}

func FuzzAttested(f *testing.F) {
	for _, token := range tokens {
		b, err := (&attested{token, 5}).encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, token)
	}
	f.Fuzz(func(t *testing.T, b []byte, token string) {
		_, _ = decodeAttested(b)
		a := &attested{token, 7}
		if c := a.compact(); c != nil {
			if got, err := decodeAttested(c); err != nil || *got != *a {
				t.Errorf("%q became %+v, %v", token, got, err)
			}
		}
	})
}
