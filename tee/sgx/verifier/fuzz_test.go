package verifier

import (
	"crypto/x509"
	"os"
	"testing"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel/inteltest"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/sgx"
	"github.com/cofferproject/coffer/tee/verify"
)

// FuzzVerify judges bent evidence with a machine's collateral, and in production
// with Intel's: it is denied with a reason, or it is what was signed.
func FuzzVerify(f *testing.F) {
	p, err := intelsim.New(intelsim.Options{Now: day})
	if err != nil {
		f.Fatal(err)
	}
	items, err := p.Collateral(intelsim.CollateralOptions{})
	if err != nil {
		f.Fatal(err)
	}
	var verifiers []verify.Verifier
	for _, c := range []verify.Config{
		{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{p.Root()}, Collateral: collateral.NewSet(items...)},
		{Kind: verify.Production, Collateral: inteltest.Collateral(f), InsecureExpiredCollateral: true},
	} {
		v, err := New(c)
		if err != nil {
			f.Fatal(err)
		}
		verifiers = append(verifiers, v)
	}
	add := func(raw []byte, note string) {
		b, err := (&sgx.Evidence{Quote: raw, Simulation: note}).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(b))
	}
	e := p.Enclave()
	raw, err := p.QuoteEnclave(&e, 3)
	if err != nil {
		f.Fatal(err)
	}
	add(raw, "everything")
	add(inteltest.QuoteV5(), "")
	if _, err := os.Stat("../../../../shared/vectors/sgx"); err == nil {
		add(vector(f), "")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range verifiers {
			r, err := v.Verify(&verify.Input{Evidence: b, InsecureSkipReportData: true, InsecureSkipInitdata: true, Now: day})
			if err == nil && (len(r) != 1 || r[0].Claims["tcb_status"] == nil) {
				t.Errorf("no result: %v", r)
			}
			if _, ok := denial.As(err); err != nil && !ok {
				t.Errorf("not a denial: %v", err)
			}
		}
	})
}
