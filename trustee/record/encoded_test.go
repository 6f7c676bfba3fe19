package record

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

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
