package gcp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/proto/sevsnp"
	tdxabi "github.com/google/go-tdx-guest/abi"
	tdxdata "github.com/google/go-tdx-guest/testing/testdata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/tee/snp"
)

// wellFormed is evidence around a report.
func wellFormed(member string, report []byte) string {
	var pcrs []string
	for i := range PCRCount {
		pcrs = append(pcrs, fmt.Sprintf(`"%d":"%s="`, i, strings.Repeat("A", 43)))
	}
	return `{"akPub":"AA==","akCert":"AA==","quotes":[{"quote":"AA==","rawSig":"AA==","pcrs":{"hash":"SHA256","pcrs":{` + strings.Join(pcrs, ",") + `}}}],"` + member + `":` + string(report) + `}`
}

func report() *sevsnp.Report {
	return &sevsnp.Report{
		Version: 3, Policy: 0x30000, SignatureAlgo: 1, FamilyId: make([]byte, 16), ImageId: make([]byte, 16), ReportData: bytes.Repeat([]byte{7}, 64), Measurement: make([]byte, 48),
		HostData: make([]byte, 32), IdKeyDigest: make([]byte, 48), AuthorKeyDigest: make([]byte, 48), ReportId: make([]byte, 32), ReportIdMa: make([]byte, 32),
		ChipId: make([]byte, 64), Signature: make([]byte, 512), Cpuid1EaxFms: 0x00a10f12, CurrentMajor: 1, CurrentMinor: 55, CurrentBuild: 40,
		ReportedTcb: 0x541700000000000a,
	}
}

func TestSNPReport(t *testing.T) {
	j, err := protojson.Marshal(&sevsnp.Attestation{Report: report()})
	if err != nil {
		t.Fatal(err)
	}
	a, err := Parse([]byte(wellFormed("sevSnpAttestation", j)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.ParseReport(a.SNP.Report)
	if err != nil {
		t.Fatal(err)
	}
	if r.Version != 3 || *r.CPU != (snp.CPUID{Family: 0x19, Model: 0x11, Stepping: 2}) || r.ReportData[63] != 7 || r.Current != (snp.Firmware{Major: 1, Minor: 55, Build: 40}) {
		t.Errorf("%+v", r)
	}
	for name, bend := range map[string]func(*sevsnp.Report){
		"short measurement": func(r *sevsnp.Report) { r.Measurement = r.Measurement[:47] }, "no signature": func(r *sevsnp.Report) { r.Signature = nil },
		"firmware version": func(r *sevsnp.Report) { r.CommittedMajor = 256 },
	} {
		p := proto.Clone(report()).(*sevsnp.Report)
		bend(p)
		if j, err = protojson.Marshal(&sevsnp.Attestation{Report: p}); err != nil {
			t.Fatal(err)
		}
		if _, err := Parse([]byte(wellFormed("sevSnpAttestation", j))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A machine's quote, as go-tdx-guest ships it, goes through the proto form whole.
func TestTDXQuote(t *testing.T) {
	p, err := tdxabi.QuoteToProto(tdxdata.RawQuote)
	if err != nil {
		t.Fatal(err)
	}
	j, err := protojson.Marshal(p.(proto.Message))
	if err != nil {
		t.Fatal(err)
	}
	a, err := Parse([]byte(wellFormed("tdxAttestation", j)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.TDX, tdxdata.RawQuote) {
		t.Errorf("%d bytes, want %d", len(a.TDX), len(tdxdata.RawQuote))
	}
}

func TestMalformed(t *testing.T) {
	j, err := protojson.Marshal(&sevsnp.Attestation{Report: report()})
	if err != nil {
		t.Fatal(err)
	}
	good := wellFormed("sevSnpAttestation", j)
	for name, bent := range map[string]string{
		"unknown member": `{"x":1,` + good[1:], "no report": strings.Replace(good, "sevSnpAttestation", "instanceInfo", 1), "23 PCRs": strings.Replace(good, `"0":"`+strings.Repeat("A", 43)+`=",`, "", 1),
		"SHA1 only": strings.Replace(good, "SHA256", "SHA1", 1), "no key": strings.Replace(good, `"akPub":"AA=="`, `"akPub":""`, 1), "two documents": good + "{}", "null": "null", "nothing": "",
		"unknown member of the report": strings.Replace(good, `"sevSnpAttestation":{`, `"sevSnpAttestation":{"x":1,`, 1), "two lines of note": good[:len(good)-1] + `,"simulation":"a\nb"}`,
	} {
		if _, err := Parse([]byte(bent)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	j, err := protojson.Marshal(&sevsnp.Attestation{Report: report()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(wellFormed("sevSnpAttestation", j)))
	p, err := tdxabi.QuoteToProto(tdxdata.RawQuote)
	if err != nil {
		f.Fatal(err)
	}
	if j, err = protojson.Marshal(p.(proto.Message)); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(wellFormed("tdxAttestation", j)))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := Parse(b)
		if err == nil && (a.SNP == nil) == (len(a.TDX) == 0) {
			t.Errorf("%+v", a)
		}
		if err == nil && !json.Valid(b) {
			t.Error("no JSON: accepted")
		}
	})
}
