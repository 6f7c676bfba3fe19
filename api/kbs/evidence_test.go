package kbs

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

var attestations = []string{
	`{"init-data":{"format":"toml","body":"x"},"runtime-data":{"nonce":"x","tee-pubkey":{}},"tee-evidence":{"primary_evidence":{"a":[1,2]},"additional_evidence":"b"}}`,
	" {\"tee-evidence\" : { \"additional_evidence\":\"\", \"primary_evidence\" : [0, 255] \n} } ",
	`{"tee-evidence":{"primary_evidence":null}}`,
	`{"tee-evidence":{"primary_evidence":1}}`,
	`{"tee-evidence":{"primary_evidence":"x"}}`,
	`{"tee-evidence":{"primary_evidence":1,"primary_evidence":2}}`,
	`{"tee-evidence":{"primary_evidence":1},"tee-evidence":{"primary_evidence":2}}`,
	`{"tee-evidence":{"primary_evidence":1},"tee-evidence":{"additional_evidence":"x"}}`,
	`{"tee-evidence":{"primary_evidence":1},"tee-evidence":null}`,
	`{"tee-evidence":{"primary_evidence":1},"TEE-EVIDENCE":{"primary_evidence":2}}`,
	`{"tee-evidence":{"primary_evidence":1,"Primary_Evidence":2}}`,
	`{"tee-evidence":{"primary_evidence":1,"primary\u005fevidence":2}}`,
	`{"tee-evidence":{"primary_evidence":1},"\u0074ee-evidence":{"primary_evidence":2}}`,
	`{"tee-evidence":{"primary_evidence":1},"tee-evidence` + "\u017f" + `":2}`,
	`{"tee-evidence":[{"primary_evidence":1}]}`,
	`{"tee-evidence":{"primary_evidence":01}}`,
	`{"tee-evidence":{"primary_evidence":[1,]}}`,
	`{"tee-evidence":{"primary_evidence":{"a":1}}}x`,
	`{"tee-evidence":{"primary_evidence":{"a":1}}}{}`,
	`{"tee-evidence":{"primary_evidence":{"a":1}}`,
	`{"tee-evidence":{"primary_evidence":{"a":1}},}`,
	`{"x":{"tee-evidence":{"primary_evidence":{"a":1}}}}`,
	`{"tee-evidence":{"x":{"primary_evidence":1}}}`,
	`{"tee-evidence":{"primary_evidence":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}`,
	`[]`, `null`, ``,
}

// sameAsJSON compares with what encoding/json makes of the whole text.
func sameAsJSON(t *testing.T, b []byte) {
	t.Helper()
	want, got := new(Attestation), new(Attestation)
	wantErr, err := json.Unmarshal(b, want), decodeAttestation(b, got)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%q: %v, but encoding/json says %v", b, err, wantErr)
	}
	if err == nil && !reflect.DeepEqual(got, want) {
		t.Errorf("%q: %+v, but encoding/json says %+v", b, got, want)
	}
}

func TestDecodeAttestationIsJSON(t *testing.T) {
	for _, a := range attestations {
		sameAsJSON(t, []byte(a))
	}
	// The way that is measured is the way that is taken.
	if _, _, ok := primarySpan([]byte(attestations[0])); !ok {
		t.Error("plain evidence is not found")
	}
	for _, a := range attestations[5:15] {
		if from, to, ok := primarySpan([]byte(a)); ok && !json.Valid([]byte(a)[from:to]) {
			t.Errorf("%s: evidence is %q", a, a[from:to])
		}
	}
}

// The evidence must not share memory with the body, whose buffer is used again.
func TestDecodeAttestationCopies(t *testing.T) {
	b := []byte(attestations[0])
	a := new(Attestation)
	if err := decodeAttestation(b, a); err != nil {
		t.Fatal(err)
	}
	clear(b)
	if string(a.TEEEvidence.Primary) != `{"a":[1,2]}` {
		t.Errorf("evidence became %q", a.TEEEvidence.Primary)
	}
}

func FuzzDecodeAttestation(f *testing.F) {
	for _, a := range attestations {
		f.Add([]byte(a))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if bounded(b, MaxAttestation) == nil {
			sameAsJSON(t, b)
		}
	})
}

func BenchmarkDecodeAttestation(b *testing.B) {
	body := []byte(strings.Replace(attestations[0], "[1,2]", "["+strings.Repeat("200,", 4095)+"7]", 1))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := decodeAttestation(body, new(Attestation)); err != nil {
			b.Fatal(err)
		}
	}
}
