package remoteas

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/trusteeapi"
)

// FuzzAnswer: whatever claims a service signs, what is taken of them says of every
// device what the release gate relies on, and nothing that such a service cannot know.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"iat":1000,"submods":{"cpu0":{"ear.trustworthiness-vector":{"hardware":2},"ear.veraison.annotated-evidence":{"snp":{"policy_debug_allowed":false},"init_data":"1111111111111111111111111111111111111111111111111111111111111111","runtime_data_claims":{"nonce":"n","tee-pubkey":{"kty":"EC"}}}}}}`))
	f.Add([]byte(`{"iat":1000,"submods":{"cpu0":{"ear.veraison.annotated-evidence":{"tdx":{},"init_data":"00","runtime_data_claims":{"nonce":"n","tee-pubkey":{"kty":"EC"}}},"ear.coffer":{"tee":"tdx","simulated":true,"namespace":"default"}}}}`))
	f.Add([]byte(`{"iat":1000,"submods":{"cpu0":{"ear.veraison.annotated-evidence":{"tpm":{},"sample":1}},"gpu0":{"ear.veraison.annotated-evidence":{"nvidia":{}}}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, simulated := range []bool{false, true} {
			c := new(ear.Claims)
			if json.Unmarshal(b, c) != nil {
				return
			}
			e := &expected{nonce: "n", key: []byte(`{"kty":"EC"}`), tees: []string{"snp", "nvidia"}}
			answered := e.answered(c, time.Unix(1000, 0)) == nil
			said := map[string]bool{}
			for name, m := range c.Submods {
				said[name] = m.Coffer != nil
			}
			l := localizer{namespace: &trusteeapi.Namespace{Name: "default", Simulated: simulated}}
			if l.localize(c) != nil {
				continue
			}
			for name, m := range c.Submods {
				switch a := m.Coffer; {
				case a == nil || a.Namespace != "default" || a.Simulated != simulated || len(a.Unbound) > 0:
					t.Errorf("%s: %+v", name, a)
				case m.Status != m.Vector.Status() || a.Simulated && ear.TierOf(m.Vector.Hardware) == ear.Affirming || a.Debug && ear.TierOf(m.Vector.Configuration) == ear.Affirming:
					t.Errorf("%s: %s %+v", name, m.Status, m.Vector)
				case !said[name] && !slices.Contains(anchored, a.TEE) && !slices.Contains(devices, a.TEE):
					t.Errorf("%s: vouched for %s", name, a.TEE)
				case answered && name == "cpu0" && a.TEE != "snp":
					t.Errorf("asked about snp, answered about %s", a.TEE)
				}
			}
		}
	})
}

// FuzzFiles: no key set and no reference value panics, and what is taken can be used.
func FuzzFiles(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}`))
	f.Add([]byte(`{"keys":[null]}`))
	f.Add([]byte(`["aa",{"b":[1]}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parseKeySet(b); err == nil && (len(l) == 0 || len(l) > maxKeys) {
			t.Errorf("%d keys", len(l))
		}
		if v, err := decodeValue(string(b)); err == nil && v != nil {
			if _, err := json.Marshal(v); err != nil {
				t.Error(err)
			}
		}
	})
}
