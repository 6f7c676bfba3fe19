package ear

import (
	"encoding/json"
	"testing"
)

func TestExtensionsAreMembers(t *testing.T) {
	s := Submod{Status: Affirming, Vector: Vector{Hardware: 2}, PolicyID: "default", Extensions: map[string]any{"ear.trustee.identifiers": map[string]any{"a": "b"}}}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil || string(m["ear.trustee.identifiers"]) != `{"a":"b"}` || string(m["ear.status"]) != `"affirming"` {
		t.Errorf("%s, %v", b, err)
	}
	var back Submod
	if err := json.Unmarshal(b, &back); err != nil || len(back.Extensions) != 1 || back.Vector != s.Vector {
		t.Errorf("%+v, %v", back, err)
	}
	for _, name := range []string{"ear.status", "Ear.Status", "ear.\u017ftatus", "EAR.coffer", "ear.Trustworthiness-Vector"} {
		s.Extensions = map[string]any{name: "affirming"}
		if _, err := json.Marshal(s); err == nil {
			t.Errorf("an extension %q is written", name)
		}
		doc, _ := json.Marshal(map[string]any{"ear.appraisal-policy-id": "x", name: nil})
		if err := json.Unmarshal(doc, &back); name != "ear.status" && err == nil {
			t.Errorf("a member spelled %q is read", name)
		}
	}
}
