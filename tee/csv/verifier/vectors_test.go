package verifier

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/csv"
	"github.com/cofferproject/coffer/tee/csv/chain"
	"github.com/cofferproject/coffer/tee/csv/csvtest"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

func published(t testing.TB) []byte {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "csv"), "csv_evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The published evidence comes out of the codec byte for byte.
func TestPublishedEvidenceCodec(t *testing.T) {
	b := published(t)
	e, err := csv.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(b), out) {
		t.Errorf("%d bytes in, %d out", len(b), len(out))
	}
}

// The report of a real chip verifies with its PEK and has the published claims.
func TestPublishedReport(t *testing.T) {
	e, err := csv.Parse(published(t))
	if err != nil {
		t.Fatal(err)
	}
	rep, err := e.ParseReport()
	if err != nil {
		t.Fatal(err)
	}
	if rep.Version != 1 || rep.PEK != e.PEK || rep.Serial != e.Serial {
		t.Errorf("version %d, PEK %v, serial %v", rep.Version, rep.PEK == e.PEK, rep.Serial == e.Serial)
	}
	pek, err := chain.CertSigner(&e.PEK, csv.UsagePEK)
	if err != nil {
		t.Fatal(err)
	}
	if !pek.Verify(rep.Signed, rep.Signature) {
		t.Fatal("the report's signature is refused")
	}
	for i := range rep.Signed {
		bent := bytes.Clone(rep.Signed)
		bent[i] ^= 1 << (i % 8)
		if i%5 == 0 && pek.Verify(bent, rep.Signature) {
			t.Errorf("byte %d bent: accepted", i)
		}
	}
	if _, ok := e.PEK.SignatureBy(csv.UsageCEK); !ok {
		t.Error("the PEK has no signature of a CEK")
	}
	serial, err := e.SerialNumber()
	if err != nil {
		t.Fatal(err)
	}
	c := claims(rep, serial)
	for name, want := range map[string]any{
		"version": "1", "serial_number": "KPA64911240507", "sig_usage": "02100000", "sig_algo": "04000000", "anonce": "26d7c75d",
		"report_data": hex.EncodeToString(make([]byte, 64)), "measure": hex.EncodeToString(rep.Measure),
	} {
		if c[name] != want {
			t.Errorf("%s: %v, want %v", name, c[name], want)
		}
	}
	policy := c["policy"].(map[string]any)
	for name, want := range map[string]int64{"nodbg": 1, "noks": 0, "es": 1, "csv3": 1, "api_major": 0} {
		if policy[name] != want {
			t.Errorf("policy %s: %v, want %d", name, policy[name], want)
		}
	}
	if len(policy) != 12 || len(c) != 12 {
		t.Errorf("%d claims, %d of the policy", len(c), len(policy))
	}
}

// Without HSK and CEK, which the vector lacks, no configuration accepts it.
func TestPublishedEvidenceNeedsItsChain(t *testing.T) {
	in := &verify.Input{Evidence: published(t), InsecureSkipReportData: true, Now: time.Now()}
	for _, c := range []struct {
		allow []string
		want  denial.Reason
	}{{nil, verify.ReasonUnproven}, {[]string{UnprovenChain}, verify.ReasonCollateralMissing}} {
		v, err := New(Config{Config: verify.Config{Kind: verify.Production, AllowUnproven: c.allow}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Verify(in)
		d, ok := denial.As(err)
		if !ok || d.Reason != c.want {
			t.Errorf("%v: %v", c.allow, err)
		}
		if c.want == verify.ReasonCollateralMissing && d.Source != KeyService+"KPA64911240507" {
			t.Errorf("origin %s", d.Source)
		}
	}
}

func production(root *chain.Root) Config {
	return Config{Config: verify.Config{Kind: verify.Production}, InsecureTestRoot: root}
}

func TestRootIsOnTheCurve(t *testing.T) {
	if _, err := chain.New(Component, ReasonHSK, ReasonCEK, production(chain.HRK())); err != nil {
		t.Fatal(err)
	}
	if h := sha256.Sum256(append(chain.HRK().X, chain.HRK().Y...)); hex.EncodeToString(h[:]) != "cfb7744bde61a72690c5d46410131a53ce3de8702f178c64d3152ea1e4194282" {
		t.Errorf("fingerprint %x", h)
	}
	bent := chain.HRK()
	bent.X[5] ^= 1
	if _, err := chain.New(Component, ReasonHSK, ReasonCEK, production(bent)); err == nil {
		t.Error("a bent root key is a point of the curve")
	}
}

func FuzzEvidence(f *testing.F) {
	f.Add([]byte(`{"attestation_report":{"data":[],"flags":0,"magic":[]},"cc_eventlog":null,"cert_chain":{"pek":{}},"serial_number":[]}`))
	if b, err := os.ReadFile("../../../../shared/vectors/csv/csv_evidence.json"); err == nil {
		f.Add(b)
		f.Add(bytes.Replace(b, []byte(`"flags":0,"magic":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]`), []byte(`"flags":1,"magic":[65,84,84,69,83,84,65,84,73,79,78,95,69,88,84,0]`), 1))
	}
	v, err := New(Config{Config: verify.Config{Kind: verify.Production, AllowUnproven: []string{UnprovenChain, UnprovenV2}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := v.Verify(&verify.Input{Evidence: b, InsecureSkipReportData: true, Now: time.Unix(1_800_000_000, 0)})
		if _, ok := denial.As(err); err == nil || !ok {
			t.Errorf("not denied: %v", err)
		}
		if e, err := csv.Parse(b); err == nil {
			if _, err := json.Marshal(e); err != nil {
				t.Error(err)
			}
		}
	})
}

// Four SM2 signatures: HSK, CEK, PEK, report.
func BenchmarkVerify(b *testing.B) {
	w, err := csvtest.New()
	if err != nil {
		b.Fatal(err)
	}
	e, err := w.V1(csvtest.Good())
	if err != nil {
		b.Fatal(err)
	}
	doc, err := json.Marshal(e)
	if err != nil {
		b.Fatal(err)
	}
	v, err := New(Config{
		Config: verify.Config{
			Kind: verify.Production, AllowUnproven: []string{UnprovenChain},
			Collateral: collateral.NewSet(&collateral.Item{Origin: KeyService + csvtest.Serial, Body: w.File(), Fetched: time.Now()}),
		},
		InsecureTestRoot: w.Root(),
	})
	if err != nil {
		b.Fatal(err)
	}
	in := &verify.Input{Evidence: doc, ReportData: make([]byte, 64), Now: time.Now()}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(in); err != nil {
			b.Fatal(err)
		}
	}
}
