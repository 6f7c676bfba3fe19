package mutations

import (
	"crypto/sha256"
	"crypto/x509"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	azsim "github.com/cofferproject/coffer/tee/azure/sim"
	azverifier "github.com/cofferproject/coffer/tee/azure/verifier"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/quote"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/verify"
)

// TestAzTDX bends the evidence of a simulated machine: the vector has no
// collateral.
func TestAzTDX(t *testing.T) {
	p, err := intelsim.New(intelsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := intelsim.New(intelsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	allow := []string{azverifier.UnprovenTDXv2}
	config := func(o intelsim.CollateralOptions) verify.Config {
		items, err := p.Collateral(o)
		if err != nil {
			t.Fatal(err)
		}
		return verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{p.Root()}, Collateral: collateral.NewSet(items...), AllowUnproven: allow}
	}
	newVerifier := func(c verify.Config) verify.Verifier {
		v, err := azverifier.NewTDX(c, azverifier.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	good := config(intelsim.CollateralOptions{})
	unproven, without := good, good
	unproven.AllowUnproven, without.Collateral = nil, nil
	rootless := good
	rootless.SimulatedRoots = []*x509.Certificate{other.Root()}

	rd := sha256.Sum256([]byte("session"))
	doc := azureDocument(t, initdata.SHA256, "mine")
	evidence := func(td *azuretest.TD, doc []byte) []byte {
		sum := sha256.Sum256(doc)
		return azuretest.Boot(t, azsim.Options{TD: td}, &sum).Evidence(t, rd[:])
	}
	td := &azuretest.TD{Platform: p, Body: p.TD()}
	e := evidence(td, doc)
	// A second TD of the same machine; its vTPM has the same key, which only a test can have.
	second := &azuretest.TD{Platform: p, Body: p.TD()}
	second.Body.MRTD[0] = 1
	parse := func(b []byte) *azure.Evidence {
		e, err := azure.Parse(azure.TDX, b)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	secondEvidence := parse(evidence(second, doc))
	q := azureField(azure.TDX, "TD quote", func(e *azure.Evidence) *[]byte { return &e.TDQuote })
	header, body := q, q
	header.Name, header.To = "TD quote's header", quote.HeaderSize
	header.Reasons = azReasons(intel.ReasonQuoteMalformed, intel.ReasonQuoteType, intel.ReasonQuoteSignature, verify.ReasonUnproven)
	body.Name, body.From, body.To, body.Every = "TD quote's body", quote.HeaderSize, quote.HeaderSize+quote.TD10Size+quote.SignatureSize+4, 7
	body.Reasons = azReasons(intel.ReasonQuoteSignature, intel.ReasonQuoteMalformed, intel.ReasonModuleMismatch, intel.ReasonTCBUnsupported)
	report := azureField(azure.TDX, "TDREPORT", func(e *azure.Evidence) *[]byte { return &e.HCLReport })
	report.From, report.To, report.Every = hclHardware+512, hclHardware+512+400, 7
	report.Reasons = azReasons(azverifier.ReasonTDReport)
	tail := report
	tail.Name, tail.From, tail.To, tail.Reasons = "after the TDREPORT", hclHardware+azure.TDReportSize, hclRuntime, azReasons(azverifier.ReasonHCLMalformed)
	fields := []Field{header, body, report, tail}
	for _, f := range azureQuoteFields(azure.TDX) {
		f.Every = max(f.Every, 7)
		if f.Name == "runtime claims" {
			f.To = hclClaims + 300
		}
		fields = append(fields, f)
	}
	Run(t, Suite{
		Verifier: newVerifier(good),
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: e, ReportData: rd[:], Initdata: doc, Now: time.Now()}
		},
		Fields: fields,
		Cases: append(azureSessionCases(azure.TDX),
			Case{Name: "not allowed", Verifier: newVerifier(unproven), Reason: verify.ReasonUnproven},
			Case{Name: "in production", Verifier: newVerifier(verify.Config{Kind: verify.Production, AllowUnproven: allow}), Reason: verify.ReasonSimulated},
			Case{Name: "another machine's root", Verifier: newVerifier(rootless), Reason: intel.ReasonPCKUntrusted},
			Case{Name: "no collateral", Verifier: newVerifier(without), Reason: verify.ReasonCollateralMissing},
			Case{Name: "old collateral", Reason: verify.ReasonCollateralExpired, Verifier: newVerifier(config(intelsim.CollateralOptions{Now: time.Now().Add(-48 * time.Hour), Life: time.Hour}))},
			Case{Name: "revoked platform", Reason: intel.ReasonPCKRevoked, Verifier: newVerifier(config(intelsim.CollateralOptions{RevokePCK: true}))},
			Case{Name: "revoked TCB level", Reason: intel.ReasonTCBRevoked, Verifier: newVerifier(config(intelsim.CollateralOptions{Platform: intel.StatusRevoked}))},
			Case{Name: "old TCB, below all levels", Reason: intel.ReasonTCBUnsupported, Verifier: newVerifier(config(intelsim.CollateralOptions{AboveMachine: true}))},
			Case{Name: "expired platform certificate", Reason: intel.ReasonPCKExpired, Mutate: func(_ testing.TB, in *verify.Input) { in.Now = in.Now.AddDate(40, 0, 0) }},
			Case{Name: "quote of another TD", Reason: azverifier.ReasonTDReport, Mutate: editAzure(azure.TDX, func(e *azure.Evidence) { e.TDQuote = secondEvidence.TDQuote })},
			Case{Name: "claims that the quote does not carry", Reason: azverifier.ReasonClaimsMismatch, Mutate: editAzure(azure.TDX, func(e *azure.Evidence) {
				h, err := azure.ParseHCL(e.HCLReport)
				if err != nil {
					t.Fatal(err)
				}
				h.RuntimeClaims = append([]byte(" "), h.RuntimeClaims...)
				if e.HCLReport, err = azure.EncodeHCL(h); err != nil {
					t.Fatal(err)
				}
			})},
		),
	})
}
