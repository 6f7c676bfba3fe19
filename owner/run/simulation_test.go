package run

import (
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/collateral"
)

// The launcher is the host's: it must not reach the collateral of production.
func TestSimulatedCollateralIsOfSimulatedOrigins(t *testing.T) {
	for origin, good := range map[string]bool{
		"https://0123.simhw.invalid/crl":                              true,
		"https://kdsintf.amd.com/vcek/v1/Milan/crl":                   false,
		"https://certificates.trustedservices.intel.com/x":            false,
		"https://kdsintf.amd.com/.simhw.invalid":                      false,
		"https://a.simhw.invalid@kdsintf.amd.com/crl":                 false,
		"https://kdsintf.amd.com/vcek/v1/Milan/crl?x=a.simhw.invalid": false,
	} {
		b, err := collateral.NewSet(&collateral.Item{Origin: origin, Body: []byte("x"), Fetched: time.Unix(1, 0)}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := checkSimulatedCollateral(b); (err == nil) != good {
			t.Errorf("%s: %v", origin, err)
		} else if err != nil && !strings.Contains(err.Error(), "not below") {
			t.Errorf("%s: %v", origin, err)
		}
	}
	if err := checkSimulatedCollateral([]byte("{}")); err == nil {
		t.Error("no bundle at all")
	}
}

// No trustee is told to expect a debug image whose evidence does not say so.
func TestNobodyVouchesForADebugImage(t *testing.T) {
	for tee, debug := range map[launch.TEE]bool{"tpm-sim": true, "snp-sim": false, "tdx-sim": false, "cca-sim": false, "nitro-sim": false, "snp": false} {
		if !(&PodOptions{TEE: tee}).vouches() {
			t.Errorf("%s: release refused", tee)
		}
		if got := (&PodOptions{TEE: tee, Debug: true}).vouches(); got != debug {
			t.Errorf("%s, debug: %t", tee, got)
		}
	}
}
