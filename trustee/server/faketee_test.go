package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// fakePolicy is the default policy with rules for fakeTEE.
func fakePolicy() string {
	text, _ := policy.DefaultText("cpu")
	return text + `
executables := 3 if input.faketee

hardware := input.faketee.hardware if input.faketee

configuration := 2 if input.faketee
`
}

func fakeFactory(t *tenant.Trust, _ collateral.Source) (verify.Verifier, error) {
	return fakeVerifier{t.Namespace.Simulated}, nil
}

type fakeVerifier struct{ simulated bool }

func (v fakeVerifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	no := func(r denial.Reason, claim, measured, expected string) ([]*verify.Result, error) {
		return nil, &denial.Denial{Reason: r, Component: "fake-verifier", Claim: claim, Measured: measured, Expected: expected, Source: "fake"}
	}
	var e fakeEvidence
	if err := json.Unmarshal(in.Evidence, &e); err != nil {
		return no("fake-malformed", "evidence", "", "")
	}
	mac := e.MAC
	if e.sign(); mac != e.MAC {
		return no("fake-signature", "evidence", "", "")
	}
	if e.ReportData != hex.EncodeToString(in.ReportData) {
		return no("fake-report-data", "report data", e.ReportData, hex.EncodeToString(in.ReportData))
	}
	if e.Simulated != v.simulated {
		return no("fake-simulated", "simulated", fmt.Sprint(e.Simulated), fmt.Sprint(v.simulated))
	}
	out := &verify.Result{
		TEE: fakeTEE, Class: verify.ClassCPU, Claims: map[string]any{"report_data": e.ReportData, "fact": "yes", "hardware": int(e.Hardware)},
		Simulated: e.Simulated, Debug: e.Debug,
	}
	for i := range e.Unproven {
		out.Unproven = append(out.Unproven, fmt.Sprintf("what-nobody-has-shown-to-be-right-%d", i))
	}
	if in.Initdata != nil {
		sum := sha256.Sum256(in.Initdata)
		raw, _ := hex.DecodeString(e.Initdata)
		if !bytes.Equal(sum[:], raw) {
			return no("initdata-mismatch", "initdata", e.Initdata, hex.EncodeToString(sum[:]))
		}
		doc, err := initdata.Parse(in.Initdata)
		if err != nil {
			return no("initdata-malformed", "initdata", "", "")
		}
		out.Claims["init_data"] = e.Initdata
		out.Initdata, out.InitdataDoc = &ear.Digest{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}, doc
	}
	return []*verify.Result{out}, nil
}
