package appraisal

import (
	"encoding/json"
	"testing"

	"github.com/cofferproject/coffer/api/kbs"
)

func FuzzAdditional(f *testing.F) {
	for _, s := range []string{``, `{}`, `{"nvidia":{"device_evidence_list":[]}}`, `{"a":1,"a":2}`, `[]`, `{"azsnpvtpm":1,"az-snp-vtpm":2}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := Additional(s)
		if err != nil {
			return
		}
		if len(m) > kbs.MaxDeviceTEEs {
			t.Errorf("%d TEEs", len(m))
		}
		for _, e := range m {
			if !json.Valid(e) {
				t.Errorf("evidence %q", e)
			}
		}
	})
}
