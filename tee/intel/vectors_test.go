package intel

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tdxtesting "github.com/google/go-tdx-guest/testing"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/intel/inteltest"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/verify"
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

func TestEmbeddedRoot(t *testing.T) {
	r := Root()
	if err := r.CheckSignatureFrom(r); err != nil {
		t.Error(err)
	}
	if s := sha256.Sum256(r.Raw); hex.EncodeToString(s[:]) != "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3" {
		t.Errorf("SHA-256 %x", s)
	}
}

func TestNoDefaultTrust(t *testing.T) {
	for name, c := range map[string]verify.Config{
		"no choice": {}, "simulated root in production": {Kind: verify.Production, SimulatedRoots: []*x509.Certificate{Root()}},
		"Intel's root as a simulated one": {Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{Root()}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Quotes of machines: the PCK chain leads to Intel's root, the PCK signed the QE
// report, that names the attestation key, which signed the quote. They come
// without collateral.
func TestVectorSignatures(t *testing.T) {
	day := time.Date(2024, 11, 1, 0, 0, 0, 0, time.UTC)
	v, err := New(verify.Config{Kind: verify.Production})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, name   string
		tee         uint32
		piid, fmspc string
	}{
		{"tdx", "tdx_quote_4.dat", quote.TDX, "82548d228d94d5e204a95b354dc61a02", "50806f000000"},
		{"tdx", "tdx_quote_5.dat", quote.TDX, "", ""},
		{"sgx", "occlum_quote.dat", quote.SGX, "7a3a6941065cd5060bd93d3db2cfc0c8", "00606a000000"},
	} {
		raw := vector(t, c.dir, c.name)
		q, err := quote.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		r := new(Verdict)
		chain, err := v.pckChain(q, day, r)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err := checkSignatures(q, chain, r); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if id := chain.pck.PlatformInstanceID(); c.piid != "" && id != c.piid {
			t.Errorf("%s: platform instance %s, want %s", c.name, id, c.piid)
		}
		if id := hex.EncodeToString(chain.pck.FMSPC[:]); c.fmspc != "" && id != c.fmspc {
			t.Errorf("%s: FMSPC %s, want %s", c.name, id, c.fmspc)
		}
		_, err = v.VerifyQuote(raw, c.tee, day)
		if d, ok := denial.As(err); !ok || d.Reason != verify.ReasonCollateralMissing {
			t.Errorf("%s: without collateral: %v", c.name, err)
		}
		_, err = v.VerifyQuote(raw, c.tee, day.AddDate(20, 0, 0))
		if d, ok := denial.As(err); !ok || d.Reason != ReasonPCKExpired {
			t.Errorf("%s: twenty years later: %v", c.name, err)
		}
		_, err = v.VerifyQuote(raw, quote.TDX-c.tee, day)
		if d, ok := denial.As(err); !ok || d.Reason != ReasonQuoteType {
			t.Errorf("%s: as the other TEE: %v", c.name, err)
		}
	}
}

// TCB information and QE identity of 2025: Intel's TCB signing key, whose first
// certificate go-tdx-guest ships, signed them.
func TestVectorCollateral(t *testing.T) {
	chain, err := url.QueryUnescape(tdxtesting.TcbInfoHeader["Tcb-Info-Issuer-Chain"][0])
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer([]byte(chain), Root())
	if err != nil {
		t.Fatal(err)
	}
	k, err := p256(s.signer)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name, member string, parse func([]byte) error) {
		t.Helper()
		b := bytes.TrimSpace(vector(t, "sgx", name))
		doc, sig, err := envelope(b, member)
		if err != nil {
			t.Fatal(err)
		}
		if err := parse(doc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !verifyRaw(k, doc, sig) {
			t.Errorf("%s: the signature does not verify", name)
		}
		if verifyRaw(k, append(bytes.Clone(doc), ' '), sig) {
			t.Errorf("%s: a changed document verifies", name)
		}
	}
	check("tcbInfo.json", "tcbInfo", func(b []byte) error {
		i, err := parseTCBInfo(b)
		if err == nil && (i.ID != "TDX" || len(i.Modules) != 2 || len(i.Levels) != 2 || i.EvalNumber != 17) {
			t.Errorf("%+v", i)
		}
		return err
	})
	check("enclaveIdentity.json", "enclaveIdentity", func(b []byte) error {
		i, err := parseQEIdentity(b)
		if err == nil && (i.ID != "TD_QE" || *i.ISVProdID != 2 || len(i.Levels) != 1) {
			t.Errorf("%+v", i)
		}
		return err
	})
}

// Bent documents are refused, each for what is wrong with it.
func TestBentDocuments(t *testing.T) {
	tcb, _, err := envelope(vector(t, "sgx", "tcbInfo.json"), "tcbInfo")
	if err != nil {
		t.Fatal(err)
	}
	qe, _, err := envelope(vector(t, "sgx", "enclaveIdentity.json"), "enclaveIdentity")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, with, want string }{
		{`"version":3`, `"version":2`, "version"}, {`"id":"TDX"`, `"id":"TDY"`, "id"}, {`"svn":2`, `"svn":256`, "svn"}, {`"svn":2,`, ``, "svn is missing"},
		{`"pcesvn":13`, `"pcesvn":null`, "pcesvn"}, {`"tcbStatus":"UpToDate"`, `"tcbStatus":"Fine"`, "status"}, {`"fmspc":"00`, `"fmspc":"`, "fmspc"},
		{`"tcbType":0`, `"tcbType":1`, "tcbType"}, {`"tdxModule":`, `"tdxModul":`, "tdxModule"}, {`"nextUpdate":`, `"nextUpdat":`, "dates"},
		{`{"isvsvn":3}`, `{}`, "isvsvn"}, {`"tcbDate":"2024-03-13T00:00:00Z"`, `"x":1`, "tcbDate"},
	} {
		b := strings.Replace(string(tcb), c.old, c.with, 1)
		if b == string(tcb) {
			t.Errorf("%s is not there", c.old)
		}
		if _, err := parseTCBInfo([]byte(b)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.with, err)
		}
	}
	for _, c := range []struct{ old, with, want string }{
		{`"version":2`, `"version":1`, "version"}, {`"isvprodid":2`, `"isvprodi":2`, "missing"}, {`{"isvsvn":4}`, `{"isvsvn":65536}`, "65536"},
		{`"miscselectMask":"FF`, `"miscselectMask":"`, "size"}, {`"tcbLevels":[`, `"tcbLevels":[],"x":[`, "levels"},
	} {
		b := strings.Replace(string(qe), c.old, c.with, 1)
		if b == string(qe) {
			t.Errorf("%s is not there", c.old)
		}
		if _, err := parseQEIdentity([]byte(b)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.with, err)
		}
	}
	for _, s := range []string{``, `{}`, `{"tcbInfo":{},"signature":"00"}`, `{"tcbInfo":{},"signature":"` + strings.Repeat("00", 64) + `","x":1}`, `{"tcbInfo":{},"signature":"` + strings.Repeat("00", 64) + `"}x`} {
		if _, _, err := envelope([]byte(s), "tcbInfo"); err == nil {
			t.Errorf("%s: accepted", s)
		}
	}
}

func FuzzTCBInfo(f *testing.F) {
	f.Add([]byte(`{"tcbInfo":{"id":"TDX","version":3},"signature":"` + strings.Repeat("00", 64) + `"}`))
	f.Add(tdxtesting.TestGetter.Responses["https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=50806f000000"].Body)
	if _, err := os.Stat("../../../shared/vectors/sgx"); err == nil {
		f.Add(vector(f, "sgx", "tcbInfo.json"))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		doc, _, err := envelope(b, "tcbInfo")
		if err != nil {
			return
		}
		i, err := parseTCBInfo(doc)
		if err != nil {
			return
		}
		td := new(quote.TD)
		for _, svn := range [][16]byte{{}, {255, 1, 255}, {3, 3}} {
			i.match(new(PCK), i.ID == "TDX", svn)
			if i.ID == "TDX" {
				_, _ = i.moduleLevel(td, svn, "")
			}
		}
	})
}

func FuzzQEIdentity(f *testing.F) {
	f.Add([]byte(`{"enclaveIdentity":{"id":"QE","version":2},"signature":"` + strings.Repeat("00", 64) + `"}`))
	f.Add(tdxtesting.TestGetter.Responses["https://api.trustedservices.intel.com/tdx/certification/v4/qe/identity"].Body)
	f.Fuzz(func(_ *testing.T, b []byte) {
		doc, _, err := envelope(b, "enclaveIdentity")
		if err != nil {
			return
		}
		if i, err := parseQEIdentity(doc); err == nil {
			_, _ = i.evaluate(&quote.Quote{TD: new(quote.TD), QEReport: new(quote.Enclave)}, "")
		}
	})
}

// FuzzPCKChain reads certificates and their SGX extension.
func FuzzPCKChain(f *testing.F) {
	q, err := quote.Parse(inteltest.QuoteV4())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q.CertData)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		certs, err := ParseChain(b)
		if err != nil {
			return
		}
		for _, c := range certs {
			_, _ = ParsePCK(c)
		}
	})
}
