package quote

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tdx-guest/abi"
	pb "github.com/google/go-tdx-guest/proto/tdx"
	"github.com/google/go-tdx-guest/testing/testdata"

	"github.com/cofferproject/coffer/test/vectors"
)

func vector(t testing.TB, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, dir), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Quotes made by hardware come out of the encoder as they went into the parser.
func TestRoundTrip(t *testing.T) {
	for _, c := range []struct {
		name     string
		raw      []byte
		version  uint16
		bodyType uint16
	}{
		{"SGX v3", vector(t, "sgx", "occlum_quote.dat"), 3, BodyEnclave},
		{"TDX v4", vector(t, "tdx", "tdx_quote_4.dat"), 4, BodyTD10},
		{"TDX v5", vector(t, "tdx", "tdx_quote_5.dat"), 5, BodyTD15},
		{"TDX v5 of go-tdx-guest", testdata.RawQuoteV5, 5, BodyTD15},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, err := Parse(c.raw)
			if err != nil {
				t.Fatal(err)
			}
			if q.Header.Version != c.version || q.BodyType != c.bodyType {
				t.Errorf("version %d, body type %d", q.Header.Version, q.BodyType)
			}
			if !bytes.Equal(q.SignedPart(), q.Signed) || !bytes.Equal(q.Bytes(), c.raw) {
				t.Error("the encoder gives other bytes")
			}
			if !bytes.Equal(q.QEReport.Bytes(), q.QEReportRaw) {
				t.Error("the QE report's encoder gives other bytes")
			}
			if p, err := Parse(append(bytes.Clone(c.raw), make([]byte, 70)...)); err != nil || !bytes.Equal(p.Bytes(), c.raw) {
				t.Errorf("with zeros behind it: %v", err)
			}
			for n := range len(c.raw) {
				if _, err := Parse(c.raw[:n]); err == nil {
					t.Fatalf("cut to %d bytes: accepted", n)
				}
			}
			if _, err := Parse(append(bytes.Clone(c.raw), 0, 1)); err == nil {
				t.Error("data behind the quote: accepted")
			}
		})
	}
}

// go-tdx-guest finds the same fields.
func TestFieldsAsOthersReadThem(t *testing.T) {
	for _, raw := range [][]byte{vector(t, "tdx", "tdx_quote_4.dat"), vector(t, "tdx", "tdx_quote_5.dat"), testdata.RawQuoteV5} {
		q, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := abi.QuoteToProto(raw)
		if err != nil {
			t.Fatal(err)
		}
		type body interface {
			GetTeeTcbSvn() []byte
			GetMrSeam() []byte
			GetXfam() []byte
			GetMrTd() []byte
			GetMrConfigId() []byte
			GetRtmrs() [][]byte
			GetReportData() []byte
		}
		var b body
		var auth *pb.Ecdsa256BitQuoteV4AuthData
		switch p := theirs.(type) {
		case *pb.QuoteV4:
			b, auth = p.GetTdQuoteBody(), p.GetSignedData()
		case *pb.QuoteV5:
			v5 := p.GetTdQuoteBodyDescriptor().GetTdQuoteBodyV5()
			b, auth = v5, p.GetSignedData()
			if !bytes.Equal(v5.GetTeeTcbSvn2(), q.TD.V15.TCBSVN2[:]) || !bytes.Equal(v5.GetMrServiceTd(), q.TD.V15.MRServiceTD[:]) {
				t.Error("the TDX 1.5 fields differ")
			}
		default:
			t.Fatalf("%T", p)
		}
		qe := auth.GetCertificationData().GetQeReportCertificationData()
		for i, pair := range [][2][]byte{
			{b.GetTeeTcbSvn(), q.TD.TCBSVN[:]}, {b.GetMrSeam(), q.TD.MRSEAM[:]}, {b.GetXfam(), q.TD.XFAM[:]}, {b.GetMrTd(), q.TD.MRTD[:]},
			{b.GetMrConfigId(), q.TD.MRConfigID[:]}, {b.GetRtmrs()[0], q.TD.RTMR[0][:]}, {b.GetRtmrs()[3], q.TD.RTMR[3][:]}, {b.GetReportData(), q.TD.ReportData[:]},
			{auth.GetSignature(), q.Signature}, {auth.GetEcdsaAttestationKey(), q.AttestationKey}, {qe.GetQeReportSignature(), q.QEReportSignature},
			{qe.GetQeReport().GetMrSigner(), q.QEReport.MRSigner[:]}, {qe.GetQeReport().GetReportData(), q.QEReport.ReportData[:]},
			{qe.GetQeAuthData().GetData(), q.QEAuthData}, {qe.GetPckCertificateChainData().GetPckCertChain(), q.CertData},
		} {
			if len(pair[1]) == 0 || !bytes.Equal(pair[0], pair[1]) {
				t.Errorf("field %d differs", i)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{4, 0, 2, 0, 0x81, 0, 0, 0})
	f.Add(testdata.RawQuoteV5)
	if _, err := os.Stat("../../../../shared/vectors/tdx"); err == nil {
		f.Add(vector(f, "tdx", "tdx_quote_4.dat"))
		f.Add(vector(f, "sgx", "occlum_quote.dat"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := Parse(b)
		if err != nil {
			return
		}
		if out := q.Bytes(); !bytes.HasPrefix(b, out) || len(bytes.Trim(b[len(out):], "\x00")) > 0 {
			t.Error("the encoder gives other bytes")
		}
	})
}
