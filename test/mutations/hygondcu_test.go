package mutations

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/csv/chain"
	"github.com/cofferproject/coffer/tee/csv/csvtest"
	"github.com/cofferproject/coffer/tee/hygondcu"
	"github.com/cofferproject/coffer/tee/hygondcu/dcutest"
	"github.com/cofferproject/coffer/tee/hygondcu/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

func dcuBend(f func(*hygondcu.Evidence)) func(testing.TB, *verify.Input) {
	return func(t testing.TB, in *verify.Input) {
		e, err := hygondcu.Parse(in.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		f(e)
		if in.Evidence, err = json.Marshal(e); err != nil {
			t.Fatal(err)
		}
	}
}

func dcuField(name string, of func(*hygondcu.Report) []byte, reasons ...denial.Reason) Field {
	return Field{
		Name: name, Every: 5, Reasons: reasons,
		Get: func(b json.RawMessage) ([]byte, error) {
			e, err := hygondcu.Parse(b)
			if err != nil {
				return nil, err
			}
			return of(&e.Reports[0]), nil
		},
		Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
			e, err := hygondcu.Parse(b)
			if err != nil {
				return nil, err
			}
			copy(of(&e.Reports[0]), v)
			return json.Marshal(e)
		},
	}
}

func TestHygonDCU(t *testing.T) {
	w, other := csvWorld(t), csvWorld(t)
	rep, err := dcutest.Report(w, [64]byte{})
	if err != nil {
		t.Fatal(err)
	}
	good, err := json.Marshal(&hygondcu.Evidence{Reports: []hygondcu.Report{rep}})
	if err != nil {
		t.Fatal(err)
	}
	with := func(root *chain.Root, file []byte, kind verify.Kind, allow ...string) verify.Verifier {
		c := verify.Config{Kind: kind, AllowUnproven: allow}
		if file != nil {
			c.Collateral = collateral.NewSet(&collateral.Item{Origin: chain.KeyService + csvtest.Serial, Body: file, Fetched: time.Now()})
		}
		v, err := verifier.New(verifier.Config{Config: c, InsecureTestRoot: root})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	bentCEK := w.File()
	bentCEK[900] ^= 1
	v := with(w.Root(), w.File(), verify.Production, verifier.Unproven)
	Run(t, Suite{
		Verifier: v,
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: good, ReportData: make([]byte, 64), Now: time.Now()}
		},
		Fields: []Field{
			dcuField("user data", func(r *hygondcu.Report) []byte { return r.UserData[:] }, verifier.ReasonSignature),
			dcuField("measure", func(r *hygondcu.Report) []byte { return r.Measure[:] }, verifier.ReasonSignature),
			dcuField("reserved", func(r *hygondcu.Report) []byte { return r.Reserved[:] }, verifier.ReasonSignature),
			dcuField("r", func(r *hygondcu.Report) []byte { return r.R[:] }, verifier.ReasonSignature),
			dcuField("s", func(r *hygondcu.Report) []byte { return r.S[:] }, verifier.ReasonSignature),
			// Another chip id is another chip, whose certificates nobody has fetched.
			dcuField("chip id", func(r *hygondcu.Report) []byte { return r.ChipID[:] }, verify.ReasonCollateralMissing, verifier.ReasonMalformed),
		},
		Cases: []Case{
			{Name: "wrong nonce", Reason: verify.ReasonReportData, Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 64); in.ReportData[63] = 1 }},
			{Name: "initdata", Reason: verify.ReasonInitdataUnbound, Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = []byte("x") }},
			{Name: "version", Reason: verifier.ReasonSignature, Mutate: dcuBend(func(e *hygondcu.Evidence) { e.Reports[0].Version++ })},
			{Name: "signature usage", Reason: verifier.ReasonSignature, Mutate: dcuBend(func(e *hygondcu.Evidence) { e.Reports[0].SigUsage++ })},
			{Name: "algorithm, signed", Reason: verifier.ReasonSignature, Mutate: dcuBend(func(e *hygondcu.Evidence) {
				e.Reports[0].SigAlgo = 2
				if err := dcutest.Sign(w, &e.Reports[0]); err != nil {
					t.Fatal(err)
				}
			})},
			{Name: "a device twice", Reason: verifier.ReasonDuplicate, Mutate: dcuBend(func(e *hygondcu.Evidence) { e.Reports = append(e.Reports, e.Reports[0]) })},
			{Name: "a second device without certificates", Reason: verify.ReasonCollateralMissing, Mutate: dcuBend(func(e *hygondcu.Evidence) {
				e.Reports = append(e.Reports, e.Reports[0])
				e.Reports[1].ChipID[0] = 'X'
			})},
			{Name: "no report", Reason: verifier.ReasonMalformed, Mutate: dcuBend(func(e *hygondcu.Evidence) { e.Reports = nil })},
			{Name: "too many", Reason: verifier.ReasonMalformed, Mutate: dcuBend(func(e *hygondcu.Evidence) { e.Reports = make([]hygondcu.Report, hygondcu.MaxReports+1) })},
			{Name: "unknown member", Reason: verifier.ReasonMalformed, Mutate: func(_ testing.TB, in *verify.Input) { in.Evidence = append([]byte(`{"extra":1,`), in.Evidence[1:]...) }},
			{Name: "signed by another chip", Reason: verifier.ReasonSignature, Mutate: dcuBend(func(e *hygondcu.Evidence) {
				if err := dcutest.Sign(other, &e.Reports[0]); err != nil {
					t.Fatal(err)
				}
			})},
			{Name: "Hygon's root key", Reason: verifier.ReasonHSK, Verifier: with(nil, w.File(), verify.Production, verifier.Unproven)},
			{Name: "CEK bent", Reason: verifier.ReasonCEK, Verifier: with(w.Root(), bentCEK, verify.Production, verifier.Unproven)},
			{Name: "no collateral", Reason: verify.ReasonCollateralMissing, Verifier: with(w.Root(), nil, verify.Production, verifier.Unproven)},
			{Name: "collateral cut", Reason: verify.ReasonCollateralMalformed, Verifier: with(w.Root(), w.File()[:100], verify.Production, verifier.Unproven)},
			{Name: "not allowed", Reason: verify.ReasonUnproven, Verifier: with(w.Root(), w.File(), verify.Production)},
			{Name: "simulated namespace", Reason: verify.ReasonNotSimulated, Verifier: with(w.Root(), w.File(), verify.InsecureSimulated, verifier.Unproven)},
		},
	})
	r, err := v.Verify(&verify.Input{Evidence: good, ReportData: make([]byte, 64), Now: time.Now()})
	if err != nil || len(r) != 1 || r[0].Class != verify.ClassDCU || len(r[0].Unproven) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
