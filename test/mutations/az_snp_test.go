package mutations

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	azsim "github.com/cofferproject/coffer/tee/azure/sim"
	azverifier "github.com/cofferproject/coffer/tee/azure/verifier"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/snp"
	snpverifier "github.com/cofferproject/coffer/tee/snp/verifier"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

func azReasons(r ...denial.Reason) []denial.Reason { return r }

// azSNPHardware are the parts of az-snp-vtpm that the hardware vouches for.
func azSNPHardware() []Field {
	report := azureField(azure.SNP, "SNP report", func(e *azure.Evidence) *[]byte { return &e.HCLReport })
	report.From, report.To, report.Every = hclHardware, hclRuntime, 5
	report.Reasons = azReasons(snpverifier.ReasonSignature, snpverifier.ReasonMalformed, snpverifier.ReasonVersion, snpverifier.ReasonSigningKey,
		snpverifier.ReasonProduct, snpverifier.ReasonTCBMismatch, snpverifier.ReasonChipID, verify.ReasonUnproven)
	vcek := azureField(azure.SNP, "VCEK", func(e *azure.Evidence) *[]byte { return &e.VCEK })
	vcek.Every = 9
	vcek.Reasons = azReasons(snpverifier.ReasonChainUntrusted, snpverifier.ReasonCertificateMalformed)
	return []Field{report, vcek}
}

// TestAzSNPVector bends the evidence of a real machine.
func TestAzSNPVector(t *testing.T) {
	read := func(t testing.TB, name string) []byte {
		b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "azure"), name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	reportData, err := hex.DecodeString("982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef")
	if err != nil {
		t.Fatal(err)
	}
	newVerifier := func(cfg verify.Config, o azverifier.Options) verify.Verifier {
		v, err := azverifier.NewSNP(cfg, o)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	recorded := verify.Config{Kind: verify.Production, InsecureSkipRevocation: true}
	genoa, err := azure.Parse(azure.SNP, read(t, "evidence-genoa.json"))
	if err != nil {
		t.Fatal(err)
	}
	Run(t, Suite{
		Verifier: newVerifier(recorded, azverifier.Options{}),
		Good: func(t testing.TB) *verify.Input {
			return &verify.Input{Evidence: bytes.TrimSpace(read(t, "evidence-v2.json")), ReportData: reportData, Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		},
		Fields: append(azureQuoteFields(azure.SNP), azSNPHardware()...),
		Cases: []Case{
			{Name: "no revocation list", Verifier: newVerifier(verify.Config{Kind: verify.Production}, azverifier.Options{}), Reason: verify.ReasonCollateralMissing},
			{Name: "in a simulated namespace", Verifier: newVerifier(verify.Config{Kind: verify.InsecureSimulated}, azverifier.Options{}), Reason: verify.ReasonNotSimulated},
			{Name: "after the certificate's time", Reason: snpverifier.ReasonCertificateExpired, Mutate: func(_ testing.TB, in *verify.Input) {
				in.Now = in.Now.AddDate(20, 0, 0)
			}},
			{Name: "another machine's VCEK", Reason: snpverifier.ReasonProduct, Mutate: editAzure(azure.SNP, func(e *azure.Evidence) { e.VCEK = genoa.VCEK })},
			{Name: "another machine's report and VCEK", Reason: azverifier.ReasonQuoteSignature, Mutate: editAzure(azure.SNP, func(e *azure.Evidence) {
				e.HCLReport, e.VCEK = genoa.HCLReport, genoa.VCEK
			})},
			{Name: "another machine's quote", Reason: azverifier.ReasonQuoteSignature, Mutate: editAzure(azure.SNP, func(e *azure.Evidence) { e.Quote = genoa.Quote })},
			{Name: "another machine's evidence, called version 2", Reason: verify.ReasonReportData, Mutate: func(t testing.TB, in *verify.Input) {
				e := *genoa
				e.Version = 2
				if in.Evidence, err = e.Encode(); err != nil {
					t.Fatal(err)
				}
			}},
			{Name: "a report bound to no session, called version 2", Reason: azverifier.ReasonUserData, Mutate: func(t testing.TB, in *verify.Input) {
				e := *genoa
				e.Version = 2
				if in.Evidence, err = e.Encode(); err != nil {
					t.Fatal(err)
				}
				in.ReportData = genoa.Quote.Message[44 : 44+48] // its own session's
			}},
			{Name: "version 1", Reason: azverifier.ReasonReportUnbound, Mutate: editAzure(azure.SNP, func(e *azure.Evidence) { e.Version = 1 })},
			{Name: "a document for a guest without", Reason: verify.ReasonInitdataUnexpected, Mutate: func(t testing.TB, in *verify.Input) {
				in.Initdata = azureDocument(t, initdata.SHA256, "x")
			}},
			{Name: "a simulation note in production", Reason: verify.ReasonSimulated, Mutate: editAzure(azure.SNP, func(e *azure.Evidence) { e.Simulation = "x" })},
		},
	})
}

// TestAzSNP bends the evidence of a simulated machine, whose keys are at hand.
func TestAzSNP(t *testing.T) {
	m := azuretest.SNPHardware()
	root := []*x509.Certificate{m.Authority.Root()}
	newVerifier := func(cfg verify.Config) verify.Verifier {
		v, err := azverifier.NewSNP(cfg, azverifier.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	cfg := verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: root}
	crl, err := m.Authority.CRL(time.Now().Add(-time.Hour), time.Now().Add(time.Hour), m.Authority.SigningKey().SerialNumber)
	if err != nil {
		t.Fatal(err)
	}
	revoked := cfg
	revoked.Collateral = collateral.NewSet(&collateral.Item{Origin: snpverifier.SimulatedCRLOrigin(root[0]), Body: crl, Fetched: time.Now()})

	const policy = snp.Policy(launch.DefaultSNPPolicy)
	rd := sha256.Sum256([]byte("session"))
	doc := azureDocument(t, initdata.SHA256, "mine")
	evidence := func(t testing.TB, hw attest.Reporter, doc []byte) []byte {
		sum := sha256.Sum256(doc)
		return azuretest.Boot(t, azsim.Options{SNP: hw}, &sum).Evidence(t, rd[:])
	}
	good := evidence(t, m.Launch(t, policy), doc)
	bent := func(bend func(*snp.Report)) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) {
			in.Evidence = evidence(t, &azuretest.Bent{Machine: m.Launch(t, policy), Chip: m.Chip, Bend: bend}, doc)
		}
	}
	withDocument := func(doc func(testing.TB) []byte) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) {
			in.Initdata = doc(t)
			in.Evidence = evidence(t, m.Launch(t, policy), in.Initdata)
		}
	}
	ask := azureField(azure.SNP, "ASK", func(e *azure.Evidence) *[]byte { return &e.ASK })
	ask.Every, ask.Reasons = 25, azReasons(snpverifier.ReasonChainUntrusted, snpverifier.ReasonCertificateMalformed)
	Run(t, Suite{
		Verifier: newVerifier(cfg),
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: good, ReportData: rd[:], Initdata: doc, Now: time.Now()}
		},
		Fields: []Field{ask}, // the others are bent in a real machine's
		Cases: append(azureSessionCases(azure.SNP),
			Case{Name: "in production", Verifier: newVerifier(verify.Config{Kind: verify.Production, InsecureSkipRevocation: true}), Reason: verify.ReasonSimulated},
			Case{Name: "without the simulation note in production", Verifier: newVerifier(verify.Config{Kind: verify.Production, InsecureSkipRevocation: true}),
				Reason: snpverifier.ReasonChainUntrusted, Mutate: editAzure(azure.SNP, func(e *azure.Evidence) { e.Simulation, e.ASK = "", nil })},
			Case{Name: "another machine's root", Verifier: newVerifier(verify.Config{Kind: verify.InsecureSimulated}), Reason: snpverifier.ReasonChainUntrusted},
			Case{Name: "revoked signing key", Verifier: newVerifier(revoked), Reason: snpverifier.ReasonCertificateRevoked},
			Case{Name: "after the certificate's time", Reason: snpverifier.ReasonCertificateExpired, Mutate: func(_ testing.TB, in *verify.Input) {
				in.Now = in.Now.AddDate(20, 0, 0)
			}},
			Case{Name: "guest below the paravisor", Reason: snpverifier.ReasonVMPL, Mutate: bent(func(r *snp.Report) { r.VMPL = 2 })},
			Case{Name: "another chip's id", Reason: snpverifier.ReasonChipID, Mutate: bent(func(r *snp.Report) { r.ChipID[0] ^= 1 })},
			Case{Name: "another TCB than the certificate's", Reason: snpverifier.ReasonTCBMismatch, Mutate: bent(func(r *snp.Report) { r.ReportedTCB.SNP-- })},
			Case{Name: "committed TCB above the current one", Reason: snpverifier.ReasonTCBOrder, Mutate: bent(func(r *snp.Report) { r.CommittedTCB.Microcode = r.CurrentTCB.Microcode + 1 })},
			Case{Name: "claims that the report does not carry", Reason: azverifier.ReasonClaimsMismatch, Mutate: bent(func(r *snp.Report) { r.ReportData[0] ^= 1 })},
			Case{Name: "report data longer than a hash", Reason: azverifier.ReasonClaimsMismatch, Mutate: bent(func(r *snp.Report) { r.ReportData[63] = 1 })},
			Case{Name: "initdata that is none", Reason: verify.ReasonInitdataMalformed, Mutate: withDocument(func(testing.TB) []byte { return []byte("x") })},
			Case{Name: "initdata of another algorithm", Reason: verify.ReasonInitdataMalformed, Mutate: withDocument(func(t testing.TB) []byte {
				return azureDocument(t, initdata.SHA384, "mine")
			})},
		),
	})
}
