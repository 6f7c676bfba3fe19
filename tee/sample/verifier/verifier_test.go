package verifier

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/sample"
	"github.com/cofferproject/coffer/tee/verify"
)

func TestNeedsTheWord(t *testing.T) {
	sim := verify.Config{Kind: verify.InsecureSimulated}
	for name, make := range map[string]func() (*Verifier, error){
		"no word": func() (*Verifier, error) { return New(0, sample.WireName, sim) },
		"production": func() (*Verifier, error) {
			return New(InsecureSample, sample.WireName, verify.Config{Kind: verify.Production})
		},
		"no kind": func() (*Verifier, error) { return New(InsecureSample, sample.WireName, verify.Config{}) },
		"another": func() (*Verifier, error) { return New(InsecureSample, "snp", sim) },
	} {
		if v, err := make(); err == nil || v != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPublishedClaims(t *testing.T) {
	data := bytes.Repeat([]byte{9}, 48)
	evidence := func(svn string) []byte {
		b, err := json.Marshal(sample.Evidence{SVN: svn, ReportData: data})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	doc := []byte("version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n")
	for tee, class := range map[string]string{sample.WireName: verify.ClassCPU, sample.DeviceWireName: verify.ClassGPU} {
		v, err := New(InsecureSample, tee, verify.Config{Kind: verify.InsecureSimulated})
		if err != nil {
			t.Fatal(err)
		}
		in := &verify.Input{Evidence: evidence("2"), ReportData: data, Now: time.Unix(1, 0)}
		if tee == sample.WireName {
			in.Initdata = doc
		}
		out, err := v.Verify(in)
		if err != nil {
			t.Fatal(err)
		}
		r := out[0]
		if r.TEE != tee || r.Class != class || !r.Simulated || r.SimulationNote == "" || r.Initdata != nil || r.InitdataDoc != nil {
			t.Errorf("%+v", r)
		}
		want := map[string]any{
			"svn": "2", "report_data": base64.StdEncoding.EncodeToString(data), "launch_digest": "abcde", "platform_version": map[string]any{"major": 1, "minor": 4}, "debug": false,
		}
		if in.Initdata != nil {
			sum, err := initdata.Digest(initdata.SHA256, doc)
			if err != nil {
				t.Fatal(err)
			}
			want["init_data"] = base64.StdEncoding.EncodeToString(sum)
		}
		a, err1 := json.Marshal(r.Claims)
		b, err2 := json.Marshal(want)
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s, not %s", a, b)
		}
	}
}
