package mutations

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	gcpverifier "github.com/cofferproject/coffer/tee/gcp/verifier"
	"github.com/cofferproject/coffer/tee/snp"
	snpverifier "github.com/cofferproject/coffer/tee/snp/verifier"
	tpmverifier "github.com/cofferproject/coffer/tee/tpm/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

type (
	gcpPCRs struct {
		Hash string            `json:"hash"`
		PCRs map[string][]byte `json:"pcrs"`
	}
	gcpQuote struct {
		Quote  []byte  `json:"quote"`
		RawSig []byte  `json:"rawSig"`
		PCRs   gcpPCRs `json:"pcrs"`
	}
	gcpDocument struct {
		AKPub      []byte          `json:"akPub"`
		Quotes     []gcpQuote      `json:"quotes"`
		AKCert     []byte          `json:"akCert"`
		SNP        json.RawMessage `json:"sevSnpAttestation"`
		Simulation string          `json:"simulation,omitempty"`
	}
)

// gcpArea is a public area of the shared RSA key.
func gcpArea(restricted bool) []byte {
	return tpm2.Marshal(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: restricted, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}, KeyBits: 2048,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: azuretest.AK().N.Bytes()}),
	})
}

// gcpReport gives the proto form of a raw report, field by field.
func gcpReport(t testing.TB, raw []byte) *sevsnp.Report {
	t.Helper()
	r, err := snp.ParseReport(raw)
	if err != nil {
		t.Fatal(err)
	}
	u64 := func(off int) (v uint64) {
		for i := range 8 {
			v |= uint64(raw[off+i]) << (8 * i)
		}
		return v
	}
	return &sevsnp.Report{
		Version: r.Version, GuestSvn: r.GuestSVN, Policy: uint64(r.Policy), FamilyId: r.FamilyID[:], ImageId: r.ImageID[:], Vmpl: r.VMPL, SignatureAlgo: r.SigAlgo,
		CurrentTcb: u64(0x38), PlatformInfo: uint64(r.PlatformInfo), SignerInfo: uint32(r.KeyInfo), ReportData: r.ReportData[:], Measurement: r.Measurement[:],
		HostData: r.HostData[:], IdKeyDigest: r.IDKeyDigest[:], AuthorKeyDigest: r.AuthorKeyDigest[:], ReportId: r.ReportID[:], ReportIdMa: r.ReportIDMA[:],
		ReportedTcb: u64(0x180), ChipId: r.ChipID[:], CommittedTcb: u64(0x1e0), LaunchTcb: u64(0x1f0), Signature: raw[0x2a0:],
		CurrentBuild: uint32(r.Current.Build), CurrentMinor: uint32(r.Current.Minor), CurrentMajor: uint32(r.Current.Major),
		CommittedBuild: uint32(r.Committed.Build), CommittedMinor: uint32(r.Committed.Minor), CommittedMajor: uint32(r.Committed.Major),
	}
}

func gcpCertificate(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter, tmpl.BasicConstraintsValid = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour), true
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// gcpQuoteOf signs a quote over registers of a bank with the shared key.
func gcpQuoteOf(t testing.TB, q *gcpQuote, data []byte, bank tpm2.TPMAlgID, pcrs ...uint) {
	t.Helper()
	h := sha256.New()
	for _, p := range pcrs {
		h.Write(q.PCRs.PCRs[strconv.Itoa(int(p))])
	}
	q.Quote = tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: data},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)},
		}),
	})
	sum := sha256.Sum256(q.Quote)
	sig, err := rsa.SignPKCS1v15(rand.Reader, azuretest.AK(), crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	q.RawSig = tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: sig}}),
	})
}

// TestGCP bends evidence of simulated hardware beside a vTPM whose certificate is
// under a test root.
func TestGCP(t *testing.T) {
	m := azuretest.SNPHardware()
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rootTmpl := &x509.Certificate{Subject: pkix.Name{CommonName: "test root of attestation keys"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	root := gcpCertificate(t, rootTmpl, rootTmpl, ca.Public(), ca)
	leaf := func(pub crypto.PublicKey, usage x509.KeyUsage) []byte {
		return gcpCertificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "instance"}, KeyUsage: usage}, root, pub, ca).Raw
	}
	cfg := verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{m.Authority.Root(), root}, AllowUnproven: []string{gcpverifier.Unproven}}
	newVerifier := func(c verify.Config) verify.Verifier {
		v, err := gcpverifier.New(c)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	rd := sha256.Sum256([]byte("session"))
	raw, _, err := m.Launch(t, snp.Policy(launch.DefaultSNPPolicy)).Report(t.Context(), rd[:])
	if err != nil {
		t.Fatal(err)
	}
	att := &sevsnp.Attestation{Report: gcpReport(t, raw), CertificateChain: &sevsnp.CertificateChain{}}
	for _, c := range m.Chip.Certs() {
		switch c.Type {
		case snp.CertVCEK:
			att.CertificateChain.VcekCert = c.Data
		case snp.CertASK:
			att.CertificateChain.AskCert = c.Data
		case snp.CertARK:
			att.CertificateChain.ArkCert = c.Data
		}
	}
	doc := gcpDocument{AKPub: gcpArea(true), AKCert: leaf(azuretest.AK().Public(), x509.KeyUsageDigitalSignature), Simulation: azuretest.Note}
	if doc.SNP, err = protojson.Marshal(att); err != nil {
		t.Fatal(err)
	}
	q := gcpQuote{PCRs: gcpPCRs{Hash: "SHA256", PCRs: map[string][]byte{}}}
	for i := range 24 {
		s := sha256.Sum256([]byte{byte(i)})
		q.PCRs.PCRs[strconv.Itoa(i)] = s[:]
	}
	gcpQuoteOf(t, &q, rd[:], tpm2.TPMAlgSHA256, azAllBut(24)...)
	doc.Quotes = []gcpQuote{{PCRs: gcpPCRs{Hash: "SHA1"}}, q}

	encode := func(d *gcpDocument) json.RawMessage {
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	edit := func(f func(*gcpDocument)) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) {
			var d gcpDocument
			if err := json.Unmarshal(in.Evidence, &d); err != nil {
				t.Fatal(err)
			}
			f(&d)
			in.Evidence = encode(&d)
		}
	}
	field := func(name string, part func(*gcpDocument) *[]byte) Field {
		return Field{
			Name: name,
			Get: func(b json.RawMessage) ([]byte, error) {
				var d gcpDocument
				if err := json.Unmarshal(b, &d); err != nil {
					return nil, err
				}
				return *part(&d), nil
			},
			Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
				var d gcpDocument
				if err := json.Unmarshal(b, &d); err != nil {
					return nil, err
				}
				*part(&d) = v
				return json.Marshal(d)
			},
		}
	}
	fields := []Field{
		field("quote", func(d *gcpDocument) *[]byte { return &d.Quotes[1].Quote }),
		field("quote signature", func(d *gcpDocument) *[]byte { return &d.Quotes[1].RawSig }),
		field("AK certificate", func(d *gcpDocument) *[]byte { return &d.AKCert }),
		field("AK public area", func(d *gcpDocument) *[]byte { return &d.AKPub }),
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
		return edit(func(d *gcpDocument) { gcpQuoteOf(t, &d.Quotes[1], data, bank, pcrs...) })
	}
	Run(t, Suite{
		Verifier: newVerifier(cfg),
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: encode(&doc), ReportData: rd[:], Now: time.Now()}
		},
		Fields: fields,
		Cases: []Case{
			{Name: "not allowed", Verifier: newVerifier(unproven), Reason: verify.ReasonUnproven},
			{Name: "in production", Verifier: newVerifier(production), Reason: verify.ReasonSimulated},
			{Name: "without the note in production", Verifier: newVerifier(production), Reason: snpverifier.ReasonChainUntrusted, Mutate: edit(func(d *gcpDocument) { d.Simulation = "" })},
			{Name: "without the note", Reason: verify.ReasonNotSimulated, Mutate: edit(func(d *gcpDocument) { d.Simulation = "" })},
			{Name: "initdata", Reason: verify.ReasonInitdataUnbound, Mutate: func(t testing.TB, in *verify.Input) { in.Initdata = azureDocument(t, initdata.SHA256, "x") }},
			{Name: "other nonce or TEE key", Reason: verify.ReasonReportData, Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 32) }},
			{Name: "vTPM of another session", Reason: verify.ReasonReportData, Mutate: requote(make([]byte, 32), tpm2.TPMAlgSHA256, azAllBut(24)...)},
			{Name: "PCR 16 in the place of PCR 9", Reason: gcpverifier.ReasonQuoteSelection, Mutate: requote(rd[:], tpm2.TPMAlgSHA256, azAllBut(9)...)},
			{Name: "bank SHA-1", Reason: gcpverifier.ReasonQuoteSelection, Mutate: requote(rd[:], tpm2.TPMAlgSHA1, azAllBut(24)...)},
			{Name: "another value", Reason: gcpverifier.ReasonQuoteDigest, Mutate: edit(func(d *gcpDocument) { d.Quotes[1].PCRs.PCRs["4"][0] ^= 1 })},
			{Name: "unrestricted key", Reason: tpmverifier.ReasonAKAttributes, Mutate: edit(func(d *gcpDocument) { d.AKPub = gcpArea(false) })},
			{Name: "certificate for another key", Reason: gcpverifier.ReasonAKUntrusted, Mutate: edit(func(d *gcpDocument) { d.AKCert = leaf(ca.Public(), x509.KeyUsageDigitalSignature) })},
			{Name: "certificate for encryption", Reason: gcpverifier.ReasonAKUntrusted, Mutate: edit(func(d *gcpDocument) { d.AKCert = leaf(azuretest.AK().Public(), x509.KeyUsageKeyEncipherment) })},
			{Name: "expired key certificate", Reason: gcpverifier.ReasonAKUntrusted, Mutate: func(_ testing.TB, in *verify.Input) { in.Now = in.Now.Add(2 * time.Hour) }},
			{Name: "no report", Reason: gcpverifier.ReasonMalformed, Mutate: edit(func(d *gcpDocument) { d.SNP = json.RawMessage("null") })},
			{Name: "two quotes of the bank", Reason: gcpverifier.ReasonMalformed, Mutate: edit(func(d *gcpDocument) { d.Quotes[0] = d.Quotes[1] })},
			{Name: "bent report", Reason: snpverifier.ReasonSignature, Mutate: edit(func(d *gcpDocument) {
				bent := gcpReport(t, raw)
				bent.Measurement = append([]byte{0xff}, bent.Measurement[1:]...)
				if d.SNP, err = protojson.Marshal(&sevsnp.Attestation{Report: bent, CertificateChain: att.CertificateChain}); err != nil {
					t.Fatal(err)
				}
			})},
		},
	})
}
