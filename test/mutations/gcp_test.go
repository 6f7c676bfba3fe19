package mutations

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	"github.com/cofferproject/coffer/tee/gcp/gcptest"
	gcpverifier "github.com/cofferproject/coffer/tee/gcp/verifier"
	snpverifier "github.com/cofferproject/coffer/tee/snp/verifier"
	tpmverifier "github.com/cofferproject/coffer/tee/tpm/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

// TestGCP bends evidence of simulated hardware beside a vTPM whose certificate is
// under a test root.
func TestGCP(t *testing.T) {
	m := gcptest.New(t)
	cfg := verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{m.SNP.Authority.Root(), m.Root}, AllowUnproven: []string{gcpverifier.Unproven}}
	newVerifier := func(c verify.Config) verify.Verifier {
		v, err := gcpverifier.New(c)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	rd := sha256.Sum256([]byte("session"))
	att, raw := m.Attestation(t, rd[:])
	doc := m.Document(t, rd[:])

	encode := func(d *gcptest.Document) json.RawMessage {
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	edit := func(f func(*gcptest.Document)) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) {
			var d gcptest.Document
			if err := json.Unmarshal(in.Evidence, &d); err != nil {
				t.Fatal(err)
			}
			f(&d)
			in.Evidence = encode(&d)
		}
	}
	field := func(name string, part func(*gcptest.Document) *[]byte) Field {
		return Field{
			Name: name,
			Get: func(b json.RawMessage) ([]byte, error) {
				var d gcptest.Document
				if err := json.Unmarshal(b, &d); err != nil {
					return nil, err
				}
				return *part(&d), nil
			},
			Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
				var d gcptest.Document
				if err := json.Unmarshal(b, &d); err != nil {
					return nil, err
				}
				*part(&d) = v
				return json.Marshal(d)
			},
		}
	}
	fields := []Field{
		field("quote", func(d *gcptest.Document) *[]byte { return &d.Quotes[1].Quote }),
		field("quote signature", func(d *gcptest.Document) *[]byte { return &d.Quotes[1].RawSig }),
		field("AK certificate", func(d *gcptest.Document) *[]byte { return &d.AKCert }),
		field("AK public area", func(d *gcptest.Document) *[]byte { return &d.AKPub }),
	}
	fields[0].Reasons = azReasons(gcpverifier.ReasonQuoteSignature)
	fields[1].Reasons, fields[1].Every = azReasons(gcpverifier.ReasonQuoteSignature), 3
	fields[2].Reasons, fields[2].Every = azReasons(gcpverifier.ReasonAKUntrusted), 7
	// Of the public area only the key counts: Google certifies that.
	fields[3].From, fields[3].Reasons, fields[3].Every = 22, azReasons(gcpverifier.ReasonAKUntrusted, tpmverifier.ReasonAKMalformed), 3
	unproven := cfg
	unproven.AllowUnproven = nil
	production := verify.Config{Kind: verify.Production, InsecureSkipRevocation: true, AllowUnproven: cfg.AllowUnproven}
	requote := func(data []byte, bank tpm2.TPMAlgID, pcrs ...uint) func(testing.TB, *verify.Input) {
		return edit(func(d *gcptest.Document) { gcptest.QuoteOf(t, &d.Quotes[1], data, bank, pcrs...) })
	}
	Run(t, Suite{
		Verifier: newVerifier(cfg),
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: encode(doc), ReportData: rd[:], Now: time.Now()}
		},
		Fields: fields,
		Cases: []Case{
			{Name: "not allowed", Verifier: newVerifier(unproven), Reason: verify.ReasonUnproven},
			{Name: "in production", Verifier: newVerifier(production), Reason: verify.ReasonSimulated},
			{Name: "without the note in production", Verifier: newVerifier(production), Reason: snpverifier.ReasonChainUntrusted, Mutate: edit(func(d *gcptest.Document) { d.Simulation = "" })},
			{Name: "without the note", Reason: verify.ReasonNotSimulated, Mutate: edit(func(d *gcptest.Document) { d.Simulation = "" })},
			{Name: "initdata", Reason: verify.ReasonInitdataUnbound, Mutate: func(t testing.TB, in *verify.Input) { in.Initdata = azureDocument(t, initdata.SHA256, "x") }},
			{Name: "other nonce or TEE key", Reason: verify.ReasonReportData, Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 32) }},
			{Name: "vTPM of another session", Reason: verify.ReasonReportData, Mutate: requote(make([]byte, 32), tpm2.TPMAlgSHA256, azAllBut(24)...)},
			{Name: "PCR 16 in the place of PCR 9", Reason: gcpverifier.ReasonQuoteSelection, Mutate: requote(rd[:], tpm2.TPMAlgSHA256, azAllBut(9)...)},
			{Name: "bank SHA-1", Reason: gcpverifier.ReasonQuoteSelection, Mutate: requote(rd[:], tpm2.TPMAlgSHA1, azAllBut(24)...)},
			{Name: "another value", Reason: gcpverifier.ReasonQuoteDigest, Mutate: edit(func(d *gcptest.Document) { d.Quotes[1].PCRs.PCRs["4"][0] ^= 1 })},
			{Name: "unrestricted key", Reason: tpmverifier.ReasonAKAttributes, Mutate: edit(func(d *gcptest.Document) { d.AKPub = gcptest.Area(false) })},
			{Name: "certificate for another key", Reason: gcpverifier.ReasonAKUntrusted, Mutate: edit(func(d *gcptest.Document) { d.AKCert = m.Leaf(t, m.CA.Public(), x509.KeyUsageDigitalSignature) })},
			{Name: "certificate for encryption", Reason: gcpverifier.ReasonAKUntrusted, Mutate: edit(func(d *gcptest.Document) { d.AKCert = m.Leaf(t, azuretest.AK().Public(), x509.KeyUsageKeyEncipherment) })},
			{Name: "expired key certificate", Reason: gcpverifier.ReasonAKUntrusted, Mutate: func(_ testing.TB, in *verify.Input) { in.Now = in.Now.Add(2 * time.Hour) }},
			{Name: "no report", Reason: gcpverifier.ReasonMalformed, Mutate: edit(func(d *gcptest.Document) { d.SNP = json.RawMessage("null") })},
			{Name: "two quotes of the bank", Reason: gcpverifier.ReasonMalformed, Mutate: edit(func(d *gcptest.Document) { d.Quotes[0] = d.Quotes[1] })},
			{Name: "bent report", Reason: snpverifier.ReasonSignature, Mutate: edit(func(d *gcptest.Document) {
				bent := gcptest.Report(t, raw)
				bent.Measurement = append([]byte{0xff}, bent.Measurement[1:]...)
				b, err := protojson.Marshal(&sevsnp.Attestation{Report: bent, CertificateChain: att.CertificateChain})
				if err != nil {
					t.Fatal(err)
				}
				d.SNP = b
			})},
		},
	})
}
