// Package sim is the attester for software TPMs. It protects nothing and its
// evidence says so: the host owns the TPM (design.md section 4, rule
// Simulation).
//
// Invariant: only coffer-guest-sim links it; a link test in test/zones checks
// that. Everything but the acceptance and the note is package attester's.
//
// Trust zone: simulated guests.
package sim

import (
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/cofferproject/coffer/tee/tpm/attester"
)

// New is attester.New with software TPMs accepted.
func New(t transport.TPMCloser, o attester.Options) (*attester.Attester, error) {
	o.AcceptSoftware = func(v attester.Vendor) (string, bool) {
		return "software TPM, vendor " + v.String() + ", owned by the host: nothing is protected", true
	}
	return attester.New(t, o)
}
