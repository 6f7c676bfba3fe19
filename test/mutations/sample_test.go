package mutations

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/sample"
	sampleverifier "github.com/cofferproject/coffer/tee/sample/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

// TestSample has little to bend: nothing is signed.
func TestSample(t *testing.T) {
	data := slices.Repeat([]byte{0x22}, 48)
	for _, tee := range []string{sample.WireName, sample.DeviceWireName} {
		v, err := sampleverifier.New(sampleverifier.InsecureSample, tee, verify.Config{Kind: verify.InsecureSimulated})
		if err != nil {
			t.Fatal(err)
		}
		f := Field{
			Name: "report data",
			Get: func(b json.RawMessage) ([]byte, error) {
				e, err := sample.Parse(b)
				if err != nil {
					return nil, err
				}
				return e.ReportData, nil
			},
			Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
				e, err := sample.Parse(b)
				if err != nil {
					return nil, err
				}
				e.ReportData = v
				return json.Marshal(e)
			},
		}
		f.Reasons = append(f.Reasons, verify.ReasonReportData)
		unreadable := Case{Name: "unreadable initdata", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = []byte("x") }, Reason: verify.ReasonInitdataMalformed}
		if tee == sample.DeviceWireName {
			unreadable.Reason = verify.ReasonInitdataUnbound
		}
		Run(t, Suite{
			Verifier: v,
			Good: func(t testing.TB) *verify.Input {
				b, err := json.Marshal(sample.Evidence{SVN: sample.SVN, ReportData: data})
				if err != nil {
					t.Fatal(err)
				}
				return &verify.Input{Evidence: b, ReportData: data, Now: time.Unix(1_800_000_000, 0)}
			},
			Fields: []Field{f},
			Cases: []Case{
				{Name: "another nonce", Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 48) }, Reason: verify.ReasonReportData},
				{Name: "report data cut", Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = data[:47] }, Reason: verify.ReasonReportData},
				{Name: "no svn", Mutate: func(_ testing.TB, in *verify.Input) { in.Evidence = []byte(`{"report_data":"IiI="}`) }, Reason: sampleverifier.ReasonEvidenceMalformed},
				unreadable,
			},
		})
	}
}
