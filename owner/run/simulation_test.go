package run

import (
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel/sim"
)

// TestSimulatedCollateral: what simulated hardware brings along is taken under
// its own root's names only, for the trustee keeps it for every namespace.
func TestSimulatedCollateral(t *testing.T) {
	p, err := sim.New(sim.Options{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	other, err := sim.New(sim.Options{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	items, err := p.Collateral(sim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bundle := func(more ...*collateral.Item) []byte {
		b, err := collateral.NewSet(append(more, items...)...).Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if err := ownCollateral(bundle(), p.Root()); err != nil {
		t.Errorf("its own: %v", err)
	}
	if err := ownCollateral(nil, p.Root()); err != nil {
		t.Errorf("none: %v", err)
	}
	if ownCollateral(bundle(), other.Root()) == nil {
		t.Error("another machine's was taken")
	}
	for _, origin := range []string{
		"https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
		"https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
	} {
		stale := &collateral.Item{Origin: origin, Body: []byte("old"), Fetched: time.Now()}
		if ownCollateral(bundle(stale), p.Root()) == nil {
			t.Errorf("%s was taken", origin)
		}
	}
	if ownCollateral([]byte("{"), p.Root()) == nil {
		t.Error("a broken bundle was taken")
	}
}
