package intel_test

import (
	"bytes"
	"testing"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/inteltest"
	"github.com/cofferproject/coffer/tee/intel/quote"
)

// What Intel published passes under its own origin and under no other.
func TestCheckPublished(t *testing.T) {
	items := inteltest.Collateral(t).Items()
	good := 0
	for _, it := range items {
		v, err := intel.CheckPublished(it)
		if err != nil {
			t.Logf("%s: %v", it.Origin, err)
			continue
		}
		good++
		if v.Immutable || v.Issued.IsZero() || v.Until.IsZero() {
			t.Errorf("%s: %+v", it.Origin, v)
		}
		for _, other := range items {
			if other.Origin != it.Origin && !bytes.Equal(other.Body, it.Body) {
				if _, err := intel.CheckPublished(&collateral.Item{Origin: other.Origin, Body: it.Body, Chain: it.Chain}); err == nil {
					t.Errorf("%s passes as %s", it.Origin, other.Origin)
				}
			}
		}
		for i := 0; i < len(it.Body); i += 1 + len(it.Body)/50 {
			bad := *it
			bad.Body = bytes.Clone(it.Body)
			bad.Body[i] ^= 1
			if _, err := intel.CheckPublished(&bad); err == nil {
				t.Errorf("%s: passes with byte %d changed", it.Origin, i)
			}
		}
		if len(it.Chain) > 0 {
			bad := *it
			bad.Chain = nil
			if _, err := intel.CheckPublished(&bad); err == nil {
				t.Errorf("%s: passes without its chain", it.Origin)
			}
		}
	}
	if good < 5 {
		t.Errorf("only %d of %d documents pass", good, len(items))
	}
}

func TestParseTCBInfoOrigin(t *testing.T) {
	for _, tee := range []uint32{quote.SGX, quote.TDX} {
		want := [6]byte{0x90, 0x6e, 0xd5, 1, 2, 0xff}
		_, _, origin, _ := intel.Origins("", tee, want, "platform")
		if gotTEE, got, err := intel.ParseTCBInfoOrigin(origin); err != nil || gotTEE != tee || got != want {
			t.Errorf("%s: %x %x %v", origin, gotTEE, got, err)
		}
		for _, s := range []string{origin + "0", origin[:len(origin)-1], origin[:len(origin)-1] + "F", origin + "&update=early", origin[:len(origin)-2] + "\n1"} {
			if _, _, err := intel.ParseTCBInfoOrigin(s); err == nil {
				t.Errorf("%q is taken", s)
			}
		}
	}
}

func FuzzCheckPublished(f *testing.F) {
	for _, it := range inteltest.Collateral(f).Items() {
		f.Add(it.Origin, it.Body, it.Chain)
	}
	f.Fuzz(func(t *testing.T, origin string, body, chain []byte) {
		v, err := intel.CheckPublished(&collateral.Item{Origin: origin, Body: body, Chain: chain})
		if err == nil && v.Issued.IsZero() {
			t.Error("taken without a date")
		}
	})
}
