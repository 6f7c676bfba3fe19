package refvalue

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func valued(t *testing.T) *Bundle {
	t.Helper()
	b := &Bundle{Version: 1, Provenance: Provenance{Tool: "test"}, Expires: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)}
	b.AddValues("snp_launch_measurement", strings.Repeat("ab", 48))
	b.AddValues("snp_bootloader", json.Number("3"), json.Number("4"))
	return b
}

func TestValuesRoundTrip(t *testing.T) {
	b := valued(t)
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Values, b.Values) || !got.Expires.Equal(b.Expires) {
		t.Errorf("got %+v", got)
	}
	if got.Expired(b.Expires.Add(-time.Second)) || !got.Expired(b.Expires) {
		t.Error("expiry is not the moment that is stated")
	}
	for _, bad := range []string{
		`{"version":1,"provenance":{"tool":"x"},"sets":[],"values":{"":[1]}}`,
		`{"version":1,"provenance":{"tool":"x"},"sets":[],"values":{"a":null}}`,
		`{"version":1,"provenance":{"tool":"x"},"sets":[],"values":{"a":[[[[[[[[1]]]]]]]]}}`,
		`{"version":1,"provenance":{"tool":"x"},"sets":[],"value":{"a":[1]}}`,
		`{"version":1,"provenance":{"tool":"x"},"sets":[],"expires":"2027-01-01T00:00:00+01:00"}`,
	} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}

func TestSigned(t *testing.T) {
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	s, err := Sign(valued(t), key)
	if err != nil {
		t.Fatal(err)
	}
	if !IsSigned([]byte(s.Raw)) || IsSigned([]byte("\n {\"version\":1}")) || IsSigned(nil) {
		t.Error("signed and unsigned documents are taken for each other")
	}
	if err := s.Verify(pub); err != nil {
		t.Error(err)
	}
	if err := s.Verify(other); err == nil {
		t.Error("another key's signature")
	}
	parts := strings.Split(s.Raw, ".")
	bent := []byte(parts[2])
	bent[3] ^= 1
	if f, err := ParseSigned(parts[0] + "." + parts[1] + "." + string(bent)); err == nil && f.Verify(pub) == nil {
		t.Error("a bent signature verifies")
	}
	b := valued(t)
	b.Expires = time.Time{}
	if _, err := Sign(b, key); err == nil {
		t.Error("signed without an expiry")
	}
}

func TestMerge(t *testing.T) {
	a, b := valued(t), &Bundle{Version: 1}
	b.AddValues("snp_bootloader", json.Number("5"))
	m, err := Merge(a, b)
	if err != nil || len(m["snp_bootloader"].([]any)) != 3 || len(a.Values["snp_bootloader"].([]any)) != 2 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := Merge(&Bundle{Values: map[string]any{"x": json.Number("1")}}, &Bundle{Values: map[string]any{"x": json.Number("2")}}); err == nil {
		t.Error("two values that contradict each other")
	}
}

// A bundle of a debug image says so through every form, and names none but such
// images.
func TestDebug(t *testing.T) {
	b := &Bundle{
		Version: Version, Provenance: Provenance{Tool: "test"}, Debug: true, Values: map[string]any{"a": []any{"b"}},
		Sets: []Set{{TEE: "tpm", Image: "debug", MemoryMiB: 256, Events: []Event{{PCR: 4, Type: EventTag}}}},
	}
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil || !got.Debug || !got.Select("debug").Debug {
		t.Errorf("%s: %+v, %v", raw, got, err)
	}
	b.Sets[0].Image = "release"
	if _, err := b.Encode(); err == nil {
		t.Error("a release image in a bundle of a debug image")
	}
}
