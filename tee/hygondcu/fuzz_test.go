package hygondcu

import (
	"encoding/json"
	"testing"
)

func FuzzEvidence(f *testing.F) {
	b, err := json.Marshal(&Evidence{Reports: make([]Report, 2)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"attestation_reports":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err != nil {
			return
		}
		for i := range e.Reports {
			_, _ = e.Reports[i].Chip()
			if n := len(e.Reports[i].Body()); n != 252 {
				t.Errorf("body of %d bytes", n)
			}
		}
		out, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(out); err != nil {
			t.Error(err)
		}
	})
}
