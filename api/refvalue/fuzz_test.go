package refvalue

import (
	"crypto/ed25519"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
)

func FuzzParseSigned(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	b := &Bundle{Version: 1, Sets: []Set{}}
	b.AddValues("a", "b")
	b.Provenance.Launch = &launch.Inputs{TEE: "snp", Cmdline: "quiet", VCPUs: 1, MemoryMiB: 256}
	b.Expires = b.Expires.AddDate(2030, 0, 0).UTC()
	if s, err := Sign(b, key); err == nil {
		f.Add(s.Raw)
	}
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, raw string) {
		s, err := ParseSigned(raw)
		if err != nil {
			return
		}
		if s.Bundle.Expires.IsZero() || len(s.ID) != 64 {
			t.Errorf("%+v", s)
		}
		if l := s.Bundle.Provenance.Launch; l != nil && l.Validate() != nil {
			t.Errorf("%+v", l)
		}
		if _, err := Merge(s.Bundle); err != nil {
			t.Error(err)
		}
	})
}
