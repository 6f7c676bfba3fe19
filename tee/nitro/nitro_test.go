package nitro

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"strings"
	"testing"
)

func TestCodec(t *testing.T) {
	const text = `{"document":"hEA=","simulation":"x"}`
	e, err := Parse([]byte(text))
	if err != nil || !bytes.Equal(e.Document, []byte{0x84, 0x40}) || e.Simulation != "x" {
		t.Fatalf("%+v, %v", e, err)
	}
	if b, err := json.Marshal(e); err != nil || string(b) != text {
		t.Errorf("%s, %v", b, err)
	}
	for name, s := range map[string]string{
		"no document": `{}`, "empty": `{"document":""}`, "null": `{"document":null}`, "unknown member": `{"document":"hEA=","x":1}`, "another case": `{"Document":"hEA="}`,
		"twice": `{"document":"hEA=","document":"hEA="}`, "not base64": `{"document":"hEA"}`, "lines": "{\"document\":\"hE\\nA=\"}", "a note of two lines": `{"document":"hEA=","simulation":"a\nb"}`,
		"too long": `{"document":"` + strings.Repeat("AAAA", MaxDocument/3+1) + `"}`,
	} {
		if _, err := Parse([]byte(s)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestInitdataPCR(t *testing.T) {
	doc := []byte("x")
	digest := sha512.Sum384(doc)
	want := sha512.Sum384(append(make([]byte, 48), digest[:]...))
	if !bytes.Equal(InitdataPCR(doc), want[:]) {
		t.Error("not one extend of zero with the document's digest")
	}
	if bytes.Equal(InitdataPCR(nil), InitdataPCR([]byte{})) {
		t.Error("no document is not an empty one")
	}
	for i, guest := range map[int]bool{-1: false, 0: false, 8: false, 15: false, 16: true, 31: true, 32: false} {
		if OfGuest(i) != guest {
			t.Errorf("register %d: not %t", i, guest)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"document":"hEA=","simulation":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err != nil {
			return
		}
		out, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(out); err != nil || !bytes.Equal(again.Document, e.Document) {
			t.Errorf("%v", err)
		}
	})
}
