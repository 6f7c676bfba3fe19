package record

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/trusteeapi"
)

// Records of any length, and of a trustee that put other members first, give their id.
func TestIDOfAnEncodedRecord(t *testing.T) {
	long := trusteeapi.Record{ID: NewID(), Time: time.Unix(1, 0), Peer: strings.Repeat("x", 1000), Claims: map[string]any{"id": "another"}}
	raw, err := encode(&long)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		string(raw):                  long.ID,
		`{"id":"a"}`:                 "a",
		` { "id" : "a\u0062" }`:      "ab",
		`{"kind":"auth","id":"a"}`:   "a",
		`{"claims":{"id":"b"}}`:      "",
		`{"id":null,"peer":"x"}`:     "",
		`{"claims":[1],"id":"late"}`: "late",
	} {
		if !json.Valid([]byte(text)) {
			t.Fatalf("%s is no JSON", text)
		}
		if got, err := idOf([]byte(text)); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{``, `{`, `[]`, `{"id":1}`, `{"id`} {
		if got, err := idOf([]byte(text)); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// A record's JSON says what encoding/json's does, whatever its claims are.
func TestEncodedRecord(t *testing.T) {
	evidence, err := ear.EncodeEvidence(map[string]any{"snp": map[string]any{"measurement": "ab<c", "svn": 3}})
	if err != nil {
		t.Fatal(err)
	}
	for _, claims := range []map[string]any{nil, {}, {"evidence": evidence, "detail": struct {
		A []int `json:"a"`
	}{[]int{1}}}} {
		r := &trusteeapi.Record{ID: NewID(), Time: time.Unix(1, 0).UTC(), Kind: "attest", Claims: claims}
		raw, err := encode(r)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := errors.Join(json.Unmarshal(raw, &got), json.Unmarshal(plain, &want)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\nand by encoding/json %s, %v", raw, plain, err)
		}
	}
	if _, err := encode(&trusteeapi.Record{Claims: map[string]any{"f": func() {}}}); err == nil {
		t.Error("claims that are no JSON were encoded")
	}
}
