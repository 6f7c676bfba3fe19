// Package gcptest makes evidence of a confidential VM on Google's cloud: simulated
// SNP hardware beside a vTPM whose attestation key is certified by a test root.
//
// Trust zone: tests.
package gcptest

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

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	"github.com/cofferproject/coffer/tee/snp"
)

type (
	// PCRs are the registers of a quote, as they go over the wire.
	PCRs struct {
		Hash string            `json:"hash"`
		PCRs map[string][]byte `json:"pcrs"`
	}
	// Quote is one bank's.
	Quote struct {
		Quote  []byte `json:"quote"`
		RawSig []byte `json:"rawSig"`
		PCRs   PCRs   `json:"pcrs"`
	}
	// Document is the evidence.
	Document struct {
		AKPub      []byte          `json:"akPub"`
		Quotes     []Quote         `json:"quotes"`
		AKCert     []byte          `json:"akCert"`
		SNP        json.RawMessage `json:"sevSnpAttestation"`
		Simulation string          `json:"simulation,omitempty"`
	}
)

// Area is a public area of the shared RSA key.
func Area(restricted bool) []byte {
	return tpm2.Marshal(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: restricted, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}, KeyBits: 2048,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: azuretest.AK().N.Bytes()}),
	})
}

// Report gives the proto form of a raw report, field by field.
func Report(t testing.TB, raw []byte) *sevsnp.Report {
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

// Certificate makes a certificate for two hours around now.
func Certificate(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
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

// QuoteOf signs a quote over registers of a bank with the shared key.
func QuoteOf(t testing.TB, q *Quote, data []byte, bank tpm2.TPMAlgID, pcrs ...uint) {
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

// Machine is a VM with the root of its attestation keys.
type Machine struct {
	SNP  *azuretest.SNPMachine
	Root *x509.Certificate // of attestation keys
	CA   *ecdsa.PrivateKey
}

// New makes a machine.
func New(t testing.TB) *Machine {
	t.Helper()
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: "test root of attestation keys"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	return &Machine{azuretest.SNPHardware(), Certificate(t, tmpl, tmpl, ca.Public(), ca), ca}
}

// Leaf certifies an attestation key.
func (m *Machine) Leaf(t testing.TB, pub crypto.PublicKey, usage x509.KeyUsage) []byte {
	t.Helper()
	return Certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "instance"}, KeyUsage: usage}, m.Root, pub, m.CA).Raw
}

// Attestation is the hardware's part over report data, with the raw report.
func (m *Machine) Attestation(t testing.TB, data []byte) (att *sevsnp.Attestation, raw []byte) {
	t.Helper()
	raw, _, err := m.SNP.Launch(t, snp.Policy(launch.DefaultSNPPolicy)).Report(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	att = &sevsnp.Attestation{Report: Report(t, raw), CertificateChain: &sevsnp.CertificateChain{}}
	for _, c := range m.SNP.Chip.Certs() {
		switch c.Type {
		case snp.CertVCEK:
			att.CertificateChain.VcekCert = c.Data
		case snp.CertASK:
			att.CertificateChain.AskCert = c.Data
		case snp.CertARK:
			att.CertificateChain.ArkCert = c.Data
		}
	}
	return att, raw
}

// Document is good evidence over report data. Register n holds the SHA-256 of
// the byte n.
func (m *Machine) Document(t testing.TB, data []byte) *Document {
	t.Helper()
	att, _ := m.Attestation(t, data)
	doc := &Document{AKPub: Area(true), AKCert: m.Leaf(t, azuretest.AK().Public(), x509.KeyUsageDigitalSignature), Simulation: azuretest.Note}
	var err error
	if doc.SNP, err = protojson.Marshal(att); err != nil {
		t.Fatal(err)
	}
	q := Quote{PCRs: PCRs{Hash: "SHA256", PCRs: map[string][]byte{}}}
	var all []uint
	for i := range uint(24) {
		s := sha256.Sum256([]byte{byte(i)})
		q.PCRs.PCRs[strconv.Itoa(int(i))] = s[:]
		all = append(all, i)
	}
	QuoteOf(t, &q, data, tpm2.TPMAlgSHA256, all...)
	doc.Quotes = []Quote{{PCRs: PCRs{Hash: "SHA1"}}, q}
	return doc
}
