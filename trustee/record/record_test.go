package record

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
)

// A record that would be too long loses claims first, then what explains: the
// decision stays.
func TestLongRecordsAreCut(t *testing.T) {
	s, err := bolt.Open(filepath.Join(t.TempDir(), "db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	device := trusteeapi.Appraisal{TEE: "snp", Status: "warning"}
	for range 10 {
		device.References = append(device.References, trusteeapi.Reference{Bundle: "a", Launch: &launch.Inputs{Cmdline: strings.Repeat("a", 2048)}})
	}
	for id, c := range map[string]struct{ devices, claims, references int }{
		"short": {1, 10, 10}, "claims": {1, maxRecord, 10}, "devices": {4, 10, 0},
	} {
		r := &trusteeapi.Record{ID: id, Namespace: "default", Outcome: trusteeapi.OutcomeGranted, Claims: map[string]any{"x": strings.Repeat("b", c.claims)}}
		for range c.devices {
			r.Appraisals = append(r.Appraisals, device)
		}
		var got *trusteeapi.Record
		if err := s.Update(t.Context(), func(tx store.Tx) error {
			if err := Put(tx, r); err != nil {
				return err
			}
			got, err = In(tx, id)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(got)
		if err != nil || len(raw) > maxRecord {
			t.Errorf("%s: %d bytes, %v", id, len(raw), err)
		}
		a := got.Appraisals[0]
		if got.Outcome != r.Outcome || len(got.Appraisals) != c.devices || a.Status != "warning" || len(a.References) != c.references || a.ReferencesOmitted != 10-c.references {
			t.Errorf("%s: %+v", id, a)
		}
		if _, whole := got.Claims["x"]; whole != (id == "short") {
			t.Errorf("%s: claims %v", id, len(got.Claims))
		}
		if len(r.Appraisals[0].References) != 10 {
			t.Errorf("%s: the caller's record was changed", id)
		}
	}
}

// Ids of later records come later, and of those of one moment no two are the same.
func TestIDsAreInOrder(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	seen, last := map[string]bool{}, ""
	for range 1000 {
		now = now.Add(time.Millisecond)
		a, b := newID(now), newID(now)
		if len(a) != 32 || a <= last || b <= last || seen[a] || seen[b] || a == b {
			t.Fatalf("%s and %s after %s", a, b, last)
		}
		seen[a], seen[b], last = true, true, max(a, b)
	}
}
