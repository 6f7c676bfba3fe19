package verifier

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/azure/attester"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	"github.com/cofferproject/coffer/tee/collateral"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/tee/verify"
)

// akTemplate is a restricted RSA signing key, as the paravisor makes it.
var akTemplate = tpm2.TPMTPublic{
	Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
		Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}, KeyBits: 2048,
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{}),
}

// persistAK puts an attestation key where the paravisor has it.
func persistAK(t testing.TB, c *device.Conn) *rsa.PublicKey {
	t.Helper()
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: owner, InPublic: tpm2.New2B(akTemplate)}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.EvictControl{Auth: owner, ObjectHandle: &tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, PersistentHandle: azure.AKHandle}).Execute(c); err != nil {
		t.Fatal(err)
	}
	area, err := rsp.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	k, err := tpm2.Pub(*area)
	if err != nil {
		t.Fatal(err)
	}
	return k.(*rsa.PublicKey)
}

// The vTPM is swtpm, a TPM that nobody here wrote: what it signs, the attester
// reads and the verifier accepts. Its paravisor took the user data before.
func TestSoftwareTPM(t *testing.T) {
	c := tpmtest.Start(t)
	p, err := intelsim.New(intelsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	td := &azuretest.TD{Platform: p, Body: p.TD()}
	rd := sha256.Sum256([]byte("session"))
	claims, err := json.Marshal(azure.RuntimeDocument{Keys: []azure.JWK{azure.NewJWK(persistAK(t, c))}, UserData: fmt.Sprintf("%X%064d", rd, 0)})
	if err != nil {
		t.Fatal(err)
	}
	h := &azure.HCL{TEE: azure.TDX, RuntimeClaims: claims}
	sum := h.ClaimsHash()
	if h.Hardware, err = td.TDReport([64]byte(append(sum[:], make([]byte, 32)...))); err != nil {
		t.Fatal(err)
	}
	report, err := azure.EncodeHCL(h)
	if err != nil {
		t.Fatal(err)
	}
	tpmtest.WriteNV(t, c, azure.NVReport, report)
	doc := document(t, "mine")
	if err := device.BindInitdata(c, sha256.Sum256(doc)); err != nil {
		t.Fatal(err)
	}
	a, err := attester.New(c, attester.Options{Metadata: quoting{td}, Simulation: azuretest.Note, Poll: time.Millisecond, Wait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	e, err := a.Evidence(context.Background(), rd[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	items, err := p.Collateral(intelsim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v := newTDX(t, verify.Config{
		Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{p.Root()}, Collateral: collateral.NewSet(items...), AllowUnproven: []string{UnprovenTDXv2},
	})
	rs, err := v.Verify(&verify.Input{Evidence: e, ReportData: rd[:], Initdata: doc, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if rs[0].Initdata == nil {
		t.Errorf("%+v", rs[0])
	}
}

// quoting is a metadata service that quotes.
type quoting struct{ td *azuretest.TD }

func (q quoting) Do(_ context.Context, r *attester.Request) ([]byte, error) {
	var in struct {
		Report string `json:"report"`
	}
	if err := json.Unmarshal(r.Body, &in); err != nil {
		return nil, err
	}
	report, err := base64.RawURLEncoding.DecodeString(in.Report)
	if err != nil {
		return nil, err
	}
	b, err := q.td.Quote(report)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{"quote": base64.RawURLEncoding.EncodeToString(b)})
}
