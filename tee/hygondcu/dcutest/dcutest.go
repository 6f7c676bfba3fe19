// Package dcutest signs reports of accelerators with the chip of package csvtest,
// for tests.
//
// Trust zone: tests.
package dcutest

import (
	"github.com/cofferproject/coffer/tee/csv"
	"github.com/cofferproject/coffer/tee/csv/csvtest"
	"github.com/cofferproject/coffer/tee/hygondcu"
)

// Report makes a good report over user data.
func Report(w *csvtest.World, userData [hygondcu.UserDataSize]byte) (hygondcu.Report, error) {
	r := hygondcu.Report{Version: 1, UserData: userData, Measure: [hygondcu.MeasureSize]byte{9, 8, 7}, SigUsage: csv.UsageCEK, SigAlgo: csv.AlgSM2}
	copy(r.ChipID[:], csvtest.Serial)
	return r, Sign(w, &r)
}

// Sign signs a report as it is.
func Sign(w *csvtest.World, r *hygondcu.Report) error { return w.SignWithCEK(r.R[:], r.S[:], r.Body()) }
