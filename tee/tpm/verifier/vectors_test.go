package verifier

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/quote"
	"github.com/cofferproject/coffer/test/vectors"
)

func vector(t testing.TB) []byte {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "tpm"), "tpm_evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A quote made by the other implementation: signature and PCR digest are right;
// its qualifying data has 64 bytes, which the 32-byte rule refuses.
func TestPublishedEvidence(t *testing.T) {
	e, err := tpm.Parse(vector(t))
	if err != nil {
		t.Fatal(err)
	}
	ak, err := x509.ParsePKIXPublicKey(e.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	if err := checker.VerifySignature(ak, e.Quote.Signature, e.Quote.Message); err != nil {
		t.Error(err)
	}
	q, err := checker.Parse(e.Quote.Message)
	if err != nil {
		t.Fatal(err)
	}
	values, err := quote.Values(&checker, q, e.Quote.PCRs, refvalue.QuotedPCRs)
	if err != nil || len(values) != tpm.PCRCount {
		t.Errorf("%d values, %v", len(values), err)
	}
	if len(q.ExtraData) != 64 {
		t.Errorf("%d bytes of qualifying data", len(q.ExtraData))
	}
	var d *denial.Denial
	if err := verifyQuote(e, ak, Input{RuntimeDataHash: q.ExtraData}, new(Result)); !errors.As(err, &d) || d.Reason != ReasonQuoteReportData {
		t.Errorf("64 bytes of qualifying data: %v", err)
	}
	v, err := New(Config{Simulated: Production, CredentialKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	// Nothing ties its key to a TPM, so it is not even looked at.
	if _, err := v.Verify(Input{Evidence: vector(t), RuntimeDataHash: make([]byte, 48), Now: time.Now()}); !errors.As(err, &d) || d.Reason != ReasonAKMalformed {
		t.Errorf("got %v", err)
	}
	e.Quote.PCRs[17], e.Quote.PCRs[0] = e.Quote.PCRs[0], e.Quote.PCRs[17]
	if _, err := quote.Values(&checker, q, e.Quote.PCRs, refvalue.QuotedPCRs); !errors.As(err, &d) || d.Reason != ReasonQuoteDigest {
		t.Errorf("values of two registers exchanged: %v", err)
	}
}

func TestQuoteMustComeFromATPM(t *testing.T) {
	e, err := tpm.Parse(vector(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"magic": func(b []byte) []byte { b[0] ^= 1; return b }, "type": func(b []byte) []byte { b[5] = 0x17; return b },
		"cut": func(b []byte) []byte { return b[:len(b)-1] }, "longer": func(b []byte) []byte { return append(b, 0) }, "empty": func([]byte) []byte { return nil },
	} {
		if _, err := checker.Parse(change(bytes.Clone(e.Quote.Message))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNoDefaultTrust(t *testing.T) {
	key, root := make([]byte, 32), []*x509.Certificate{{}}
	for name, c := range map[string]Config{
		"no choice": {CredentialKey: key}, "short key": {Simulated: Production, CredentialKey: key[:31]},
		"simulated root in production": {Simulated: Production, CredentialKey: key, SimulatedRoots: root},
		"vendor root in simulation":    {Simulated: InsecureSimulated, CredentialKey: key, EKRoots: root},
		"enrolled key in simulation":   {Simulated: InsecureSimulated, CredentialKey: key, EnrolledAKs: []string{"x"}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzVerify(f *testing.F) {
	area := tpm2.Marshal(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, Restricted: true, SignEncrypt: true},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		}),
	})
	f.Add([]byte(`{}`), []byte{}, []byte{}, area)
	if _, err := os.Stat("../../../../shared/vectors/tpm"); err == nil {
		b := vector(f)
		e, err := tpm.Parse(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, e.Quote.Message, e.Quote.Signature, area)
		e.AKArea, e.EventLog, e.CredentialMAC = area, []byte{1}, []byte{2}
		if b, err = json.Marshal(e); err != nil {
			f.Fatal(err)
		}
		f.Add(b, e.Quote.Message, e.Quote.Signature, area)
	}
	v, err := New(Config{Simulated: Production, CredentialKey: make([]byte, 32)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, evidence, msg, sig, area []byte) {
		if _, err := v.Verify(Input{Evidence: evidence, RuntimeDataHash: make([]byte, 48), Now: time.Unix(1_800_000_000, 0)}); err == nil {
			t.Error("accepted")
		} else if _, ok := denial.As(err); !ok {
			t.Errorf("not a denial: %v", err)
		}
		if ak, err := parseAK(area); err == nil {
			_ = checker.VerifySignature(ak.key, sig, msg)
		}
		if q, err := checker.Parse(msg); err == nil {
			_, _ = quote.Values(&checker, q, make([]tpm.PCRHex, tpm.PCRCount), refvalue.QuotedPCRs)
		}
	})
}
