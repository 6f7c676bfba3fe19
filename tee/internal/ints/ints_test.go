package ints

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestBytes(t *testing.T) {
	for in, want := range map[string][]byte{"[]": {}, "[0]": {0}, " [ 1 ,\n255 ] ": {1, 255}, "[10,0,200]": {10, 0, 200}} {
		var b Bytes
		if err := b.UnmarshalJSON([]byte(in)); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %v, %v", in, b, err)
		}
	}
	for _, in := range []string{"", "null", "[", "]", "[1", "[1,]", "[,1]", "[256]", "[-1]", "[1.0]", "[1e1]", "[01]", "[00]", "\"AA==\"", "[1]x", "[[1]]", "[1 2]", "[99999999999]"} {
		var b Bytes
		if err := b.UnmarshalJSON([]byte(in)); err == nil {
			t.Errorf("%s: accepted as %v", in, b)
		}
	}
	out, err := json.Marshal(struct{ A, B Bytes }{A: Bytes{0, 17, 255}})
	if err != nil || string(out) != `{"A":[0,17,255],"B":[]}` {
		t.Errorf("%s, %v", out, err)
	}
	if (Bytes{1}).Fixed(2) == nil || (Bytes{1}).Fixed(1) != nil {
		t.Error("length not checked")
	}
}

func FuzzBytes(f *testing.F) {
	f.Add([]byte("[1,2,255]"))
	f.Add([]byte("[ ]"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var b Bytes
		if b.UnmarshalJSON(in) != nil {
			return
		}
		out, err := b.MarshalJSON()
		var again Bytes
		if err != nil || again.UnmarshalJSON(out) != nil || !bytes.Equal(b, again) {
			t.Errorf("%q is not read again", out)
		}
	})
}
