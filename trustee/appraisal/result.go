package appraisal

import (
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/trusteeapi"
)

// Primary gives the submodule that a record is about: the CPU, or where only a
// device attested, that.
func (r *Result) Primary() ear.Submod {
	if s, ok := r.Submods["cpu0"]; ok {
		return s
	}
	return r.Submods[r.Appraisals[0].Submod]
}

// Describe fills the record of an accepted attestation.
func (r *Result) Describe(rec *trusteeapi.Record) {
	s := r.Primary()
	rec.Outcome, rec.Simulated, rec.Initdata = trusteeapi.OutcomeGranted, s.Coffer.Simulated, s.Coffer.Initdata.String()
	rec.Status, rec.Vector, rec.Appraisals = string(s.Status), s.Vector.Map(), r.Appraisals
	rec.Time = r.Expires.Add(-Lifetime).UTC()
	rec.Claims = map[string]any{"evidence": encoded(s.Evidence)}
	for name, m := range r.Submods {
		if len(r.Submods) > 1 {
			rec.Claims["evidence "+name] = encoded(m.Evidence)
		}
	}
	if len(r.Submods) > 1 {
		delete(rec.Claims, "evidence")
	}
	switch d, ok := r.Detail["cpu0"]; {
	case ok && len(r.Detail) == 1:
		rec.Claims["detail"] = d
	case len(r.Detail) > 0:
		rec.Claims["detail"] = r.Detail
	}
}

// encoded gives evidence as JSON, which costs a record less than the maps; those where
// there is none, so that whoever encodes the record hears why.
func encoded(evidence map[string]any) any {
	if raw, err := ear.EncodeEvidence(evidence); err == nil {
		return raw
	}
	return evidence
}
