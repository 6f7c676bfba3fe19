package mutations

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	azverifier "github.com/cofferproject/coffer/tee/azure/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

// Layout of the HCL report, as tee/azure/SPEC.md has it.
const (
	hclHardware = 32
	hclRuntime  = 1216
	hclClaims   = 1236
)

// azureField is a part of Azure evidence.
func azureField(tee, name string, part func(*azure.Evidence) *[]byte) Field {
	return Field{
		Name: name,
		Get: func(b json.RawMessage) ([]byte, error) {
			e, err := azure.Parse(tee, b)
			if err != nil {
				return nil, err
			}
			return *part(e), nil
		},
		Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
			e, err := azure.Parse(tee, b)
			if err != nil {
				return nil, err
			}
			*part(e) = v
			return e.Encode()
		},
	}
}

func azurePCRs(tee string) Field {
	return Field{
		Name: "PCR values", Every: 5, Reasons: azReasons(azverifier.ReasonQuoteDigest),
		Get: func(b json.RawMessage) ([]byte, error) {
			e, err := azure.Parse(tee, b)
			if err != nil {
				return nil, err
			}
			var out []byte
			for _, p := range e.Quote.PCRs {
				out = append(out, p[:]...)
			}
			return out, nil
		},
		Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
			e, err := azure.Parse(tee, b)
			if err != nil {
				return nil, err
			}
			if len(v) != 32*len(e.Quote.PCRs) {
				return nil, errors.New("another number of registers")
			}
			for i := range e.Quote.PCRs {
				e.Quote.PCRs[i] = [32]byte(v[32*i:])
			}
			return e.Encode()
		},
	}
}

// azureQuoteFields are the parts that both TEEs have.
func azureQuoteFields(tee string) []Field {
	sig := azureField(tee, "quote signature", func(e *azure.Evidence) *[]byte { return &e.Quote.Signature })
	msg := azureField(tee, "quote", func(e *azure.Evidence) *[]byte { return &e.Quote.Message })
	head := azureField(tee, "HCL header", func(e *azure.Evidence) *[]byte { return &e.HCLReport })
	runtime, claims, padding := head, head, head
	head.To, head.Reasons = hclHardware, azReasons(azverifier.ReasonHCLMalformed)
	runtime.Name, runtime.From, runtime.To = "runtime header", hclRuntime, hclClaims
	runtime.Reasons = azReasons(azverifier.ReasonHCLMalformed, azverifier.ReasonHCLType)
	claims.Name, claims.From, claims.To, claims.Every = "runtime claims", hclClaims, hclClaims+600, 3
	claims.Reasons = azReasons(azverifier.ReasonClaimsMismatch)
	padding.Name, padding.From, padding.To = "padding", 2500, 2600
	padding.Reasons = azReasons(azverifier.ReasonHCLMalformed)
	sig.Every, sig.Reasons = 3, azReasons(azverifier.ReasonQuoteSignature)
	msg.Reasons = azReasons(azverifier.ReasonQuoteSignature)
	return []Field{sig, msg, azurePCRs(tee), head, runtime, claims, padding}
}

// editAzure bends evidence as its fields.
func editAzure(tee string, f func(*azure.Evidence)) func(testing.TB, *verify.Input) {
	return func(t testing.TB, in *verify.Input) {
		t.Helper()
		e, err := azure.Parse(tee, in.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		f(e)
		if in.Evidence, err = e.Encode(); err != nil {
			t.Fatal(err)
		}
	}
}

// azRequote has the vTPM's own key sign another statement. Values are the
// evidence's, whatever the statement says.
func azRequote(tee string, f func(*tpm2.TPMSAttest, *azure.Evidence)) func(testing.TB, *verify.Input) {
	return func(t testing.TB, in *verify.Input) {
		t.Helper()
		editAzure(tee, func(e *azure.Evidence) {
			att, err := tpm2.Unmarshal[tpm2.TPMSAttest](e.Quote.Message)
			if err != nil {
				t.Fatal(err)
			}
			f(att, e)
			if e.Quote.Signature, e.Quote.Message, err = azuretest.Quote(att); err != nil {
				t.Fatal(err)
			}
		})(t, in)
	}
}

// azQuoting is the content of a quote over registers of a bank.
func azQuoting(bank tpm2.TPMAlgID, e *azure.Evidence, pcrs ...uint) tpm2.TPMUAttest {
	h := sha256.New()
	for _, p := range pcrs {
		h.Write(e.Quote.PCRs[p][:])
	}
	return tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}},
		PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)},
	})
}

func azAllBut(skip uint) []uint {
	var out []uint
	for i := range uint(azure.PCRCount) {
		if i != skip {
			out = append(out, i)
		}
	}
	return out
}

func azureDocument(t testing.TB, alg initdata.Algorithm, note string) []byte {
	t.Helper()
	b, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: alg, Data: map[string]string{"note": note}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// azureSessionCases bend what binds evidence to its session, and the quote.
func azureSessionCases(tee string) []Case {
	return []Case{
		{Name: "other nonce or TEE key", Reason: verify.ReasonReportData, Mutate: func(_ testing.TB, in *verify.Input) {
			s := sha256.Sum256([]byte("other"))
			in.ReportData = s[:]
		}},
		{Name: "report data padded", Reason: verify.ReasonReportData, Mutate: func(_ testing.TB, in *verify.Input) {
			in.ReportData = append(in.ReportData[:len(in.ReportData):len(in.ReportData)], 0)
		}},
		{Name: "other initdata", Reason: verify.ReasonInitdataMismatch, Mutate: func(t testing.TB, in *verify.Input) {
			in.Initdata = azureDocument(t, initdata.SHA256, "other")
		}},
		{Name: "no initdata", Reason: verify.ReasonInitdataMissing, Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = nil }},
		{Name: "PCR 16 in the place of PCR 9", Reason: azverifier.ReasonQuoteSelection, Mutate: azRequote(tee, func(a *tpm2.TPMSAttest, e *azure.Evidence) {
			a.Attested = azQuoting(tpm2.TPMAlgSHA256, e, azAllBut(9)...)
		})},
		{Name: "PCR 8 left out", Reason: azverifier.ReasonQuoteSelection, Mutate: azRequote(tee, func(a *tpm2.TPMSAttest, e *azure.Evidence) {
			a.Attested = azQuoting(tpm2.TPMAlgSHA256, e, azAllBut(8)...)
		})},
		{Name: "resettable PCRs only", Reason: azverifier.ReasonQuoteSelection, Mutate: azRequote(tee, func(a *tpm2.TPMSAttest, e *azure.Evidence) {
			a.Attested = azQuoting(tpm2.TPMAlgSHA256, e, 16, 23)
		})},
		{Name: "no PCR", Reason: azverifier.ReasonQuoteSelection, Mutate: azRequote(tee, func(a *tpm2.TPMSAttest, e *azure.Evidence) {
			a.Attested = azQuoting(tpm2.TPMAlgSHA256, e)
		})},
		{Name: "bank SHA-1", Reason: azverifier.ReasonQuoteSelection, Mutate: azRequote(tee, func(a *tpm2.TPMSAttest, e *azure.Evidence) {
			a.Attested = azQuoting(tpm2.TPMAlgSHA1, e, azAllBut(azure.PCRCount)...)
		})},
		{Name: "two values exchanged", Reason: azverifier.ReasonQuoteDigest, Mutate: editAzure(tee, func(e *azure.Evidence) {
			e.Quote.PCRs[8], e.Quote.PCRs[16] = e.Quote.PCRs[16], e.Quote.PCRs[8]
		})},
		{Name: "no statement of a TPM", Reason: azverifier.ReasonQuoteMalformed, Mutate: azRequote(tee, func(a *tpm2.TPMSAttest, _ *azure.Evidence) { a.Magic ^= 1 })},
		{Name: "statement of another type", Reason: azverifier.ReasonQuoteMalformed, Mutate: azRequote(tee, func(a *tpm2.TPMSAttest, _ *azure.Evidence) {
			a.Type = tpm2.TPMSTAttestTime
			a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestTime, &tpm2.TPMSTimeAttestInfo{})
		})},
		{Name: "no simulation note", Reason: verify.ReasonNotSimulated, Mutate: editAzure(tee, func(e *azure.Evidence) { e.Simulation, e.ASK = "", nil })},
		{Name: "version 1", Reason: azverifier.ReasonReportUnbound, Mutate: editAzure(tee, func(e *azure.Evidence) { e.Version = 1 })},
		{Name: "evidence of the other TEE", Reason: azverifier.ReasonMalformed, Mutate: func(_ testing.TB, in *verify.Input) {
			in.Evidence = []byte(fmt.Sprintf(`{"version":2,"tpm_quote":{"signature":"00","message":"00","pcrs":[]},"hcl_report":"AA","%s":"AA"}`,
				map[string]string{azure.SNP: "td_quote", azure.TDX: "vcek"}[tee]))
		}},
		{Name: "unknown member", Reason: azverifier.ReasonMalformed, Mutate: func(_ testing.TB, in *verify.Input) {
			in.Evidence = append([]byte(`{"x":1,`), in.Evidence[1:]...)
		}},
	}
}
