package launch

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestParseSEV(t *testing.T) {
	m := `{"api_major":0,"api_minor":24,"build":15,"policy":63,"measure":"` + strings.Repeat("AAAA", 10) + `AAA=","nonce":"` + strings.Repeat("AAAA", 5) + `AA=="`
	got, err := ParseSEVMeasurement([]byte(m + "}"))
	if err != nil || got.APIMinor != 24 || got.Build != 15 || got.Policy != 63 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, bad := range []string{m, m + `,"gpa":1}`, m + "}{}", "{}", "null", m + `,"build":256}`} {
		if got, err := ParseSEVMeasurement([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", bad, got)
		}
	}
	for size, ok := range map[int]bool{0: false, 15: false, 16: true, maxSEVSecret: true, maxSEVSecret + 16: false} {
		b, err := json.Marshal(SEVSecret{make([]byte, sevHeaderSize), make([]byte, size)})
		if err != nil {
			t.Fatal(err)
		}
		if s, err := ParseSEVSecret(b); (err == nil) != ok {
			t.Errorf("%d bytes: %+v, %v", size, s, err)
		}
	}
}

func FuzzParseSEV(f *testing.F) {
	f.Add([]byte(`{"api_minor":24,"measure":"AAAA","nonce":""}`))
	b, err := json.Marshal(SEVSecret{make([]byte, sevHeaderSize), make([]byte, 16)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := ParseSEVMeasurement(b); err == nil && (len(m.Measure) != sevMeasureSize || len(m.Nonce) != sevNonceSize) {
			t.Errorf("%+v", m)
		}
		if s, err := ParseSEVSecret(b); err == nil {
			again, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if other, err := ParseSEVSecret(again); err != nil || !bytes.Equal(other.Secret, s.Secret) {
				t.Errorf("%v", err)
			}
		}
	})
}
