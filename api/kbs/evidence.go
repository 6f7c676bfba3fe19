package kbs

import (
	"bytes"
	"encoding/json"

	"github.com/cofferproject/coffer/api/internal/jsonspan"
)

// The members that lead to the evidence.
const (
	memberEvidence = "tee-evidence"
	memberPrimary  = "primary_evidence"
)

// decodeAttestation decodes an attestation as encoding/json does. Evidence is most
// of it, often an array of numbers for each byte, and its verifier decodes it with
// its own rules; so it is taken out before the rest is decoded, and put back as it
// is. Where that is not plain (a name twice, in another case, with escapes),
// encoding/json decodes all of it.
func decodeAttestation(b []byte, a *Attestation) error {
	from, to, ok := primarySpan(b)
	if !ok {
		return json.Unmarshal(b, a)
	}
	rest := make([]byte, 0, len(b)-(to-from)+len("null"))
	rest = append(append(append(rest, b[:from]...), "null"...), b[to:]...)
	if err := json.Unmarshal(rest, a); err != nil {
		return err
	}
	a.TEEEvidence.Primary = bytes.Clone(b[from:to]) // the body is not kept
	return nil
}

// primarySpan finds the one primary_evidence of an attestation.
func primarySpan(b []byte) (from, to int, ok bool) {
	outer, ok := only(b, jsonspan.Blank(b, 0), memberEvidence)
	if !ok || b[outer.from] != '{' {
		return 0, 0, false
	}
	inner, ok := only(b, outer.from, memberPrimary)
	return inner.from, inner.to, ok
}

type span struct{ from, to int }

// only gives the value of the one member of that name; false where there are
// several that encoding/json might take for it, or none.
func only(b []byte, at int, name string) (found span, ok bool) {
	n, plain := 0, true
	_, whole := jsonspan.Members(b, at, func(k, v int) (int, bool) {
		end, is := jsonspan.End(b, v)
		if !is {
			return 0, false
		}
		q, _ := jsonspan.String(b, k)
		switch quoted := b[k+1 : q-1]; {
		case bytes.IndexByte(quoted, '\\') >= 0:
			plain = false // might spell the name
		case string(quoted) == name:
			n, found = n+1, span{v, end}
		case bytes.EqualFold(quoted, []byte(name)):
			plain = false
		}
		return end, true
	})
	return found, whole && plain && n == 1
}
