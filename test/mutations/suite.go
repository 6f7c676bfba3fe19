// Package mutations bends the evidence of every TEE in every field and demands
// that each bend is denied, with the reason that names it: one suite, a table
// for each TEE (files snp_test.go, tdx_test.go, ...).
package mutations

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/verify"
)

// Suite is the table of one TEE. All evidence of it is genuine or made by a
// simulator; the good input must be accepted.
type Suite struct {
	// Verifier is for Good and for all cases that name none.
	Verifier verify.Verifier
	// Good makes a fresh input that the verifier accepts.
	Good func(t testing.TB) *verify.Input
	// Fields are the binary parts of the evidence in which one bit
	// of each byte is flipped in turn.
	Fields []Field
	Cases  []Case
}

// Field is a range of bytes that a JSON document carries.
type Field struct {
	Name string
	// Get reads the bytes out of the evidence, Set puts others in their place.
	Get func(evidence json.RawMessage) ([]byte, error)
	Set func(evidence json.RawMessage, b []byte) (json.RawMessage, error)
	// From and To bound what is flipped; To 0: to the end.
	From, To int
	// Every takes each n-th byte only, for long fields; 0 is 1.
	Every int
	// Reasons are those that a flip in this field may be denied with.
	Reasons []denial.Reason
}

// Case is one mutation by hand.
type Case struct {
	Name string
	// Mutate bends the input.
	Mutate func(t testing.TB, in *verify.Input)
	// Verifier, if set, judges instead of the suite's: other roots, other
	// collateral, another time.
	Verifier verify.Verifier
	Reason   denial.Reason
}

// Run runs the table.
func Run(t *testing.T, s Suite) {
	t.Helper()
	if _, err := s.Verifier.Verify(s.Good(t)); err != nil {
		t.Fatalf("good evidence is denied: %v", err)
	}
	for i := range s.Fields {
		t.Run("flip "+s.Fields[i].Name, func(t *testing.T) { s.flip(t, &s.Fields[i]) })
	}
	for _, c := range s.Cases {
		t.Run(c.Name, func(t *testing.T) {
			in, v := s.Good(t), c.Verifier
			if v == nil {
				v = s.Verifier
			}
			if c.Mutate != nil {
				c.Mutate(t, in)
			}
			if err := want(v, in, c.Reason); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("cut and padded", s.cut)
}

func (s *Suite) flip(t *testing.T, f *Field) {
	good := s.Good(t)
	b, err := f.Get(good.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	to := f.To
	if to == 0 {
		to = len(b)
	}
	if f.From < 0 || to > len(b) || f.From >= to {
		t.Fatalf("range %d to %d of %d bytes", f.From, to, len(b))
	}
	for i := f.From; i < to; i += max(1, f.Every) {
		bent := slices.Clone(b)
		bent[i] ^= 1 << (i % 8)
		in := *good
		if in.Evidence, err = f.Set(good.Evidence, bent); err != nil {
			t.Fatal(err)
		}
		if err := want(s.Verifier, &in, f.Reasons...); err != nil {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

// cut shortens and lengthens the document as a whole; what is no JSON any more
// must be denied and not be a fault.
func (s *Suite) cut(t *testing.T) {
	good := s.Good(t)
	n := len(good.Evidence)
	for _, l := range []int{0, 1, n / 4, n / 2, n - 2, n - 1} {
		in := *good
		in.Evidence = slices.Clone(good.Evidence[:l])
		if err := want(s.Verifier, &in); err != nil {
			t.Errorf("cut to %d of %d bytes: %v", l, n, err)
		}
	}
	in := *good
	in.Evidence = append(slices.Clone(good.Evidence), "{}"...)
	if err := want(s.Verifier, &in); err != nil {
		t.Errorf("padded: %v", err)
	}
}

// want demands a denial; without reasons any will do.
func want(v verify.Verifier, in *verify.Input, reasons ...denial.Reason) error {
	_, err := v.Verify(in)
	if err == nil {
		return errors.New("accepted")
	}
	d, ok := denial.As(err)
	switch {
	case !ok:
		return fmt.Errorf("an error that is no denial: %w", err)
	case d.Component == "" || d.Claim == "":
		return fmt.Errorf("a denial without component or claim: %w", err)
	case len(reasons) > 0 && !slices.Contains(reasons, d.Reason):
		return fmt.Errorf("denied with %s, want %v: %w", d.Reason, reasons, err)
	}
	return nil
}
