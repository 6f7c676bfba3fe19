package tenant

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
)

// ca is a certificate authority of a test.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T, name pkix.Name, parent *ca) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: name, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if parent == nil {
		parent = &ca{c, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent.cert, &key.PublicKey, parent.key)
	if err == nil {
		c, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &ca{c, key}
}

func (c *ca) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
}

func named(cn string) pkix.Name { return pkix.Name{CommonName: cn} }

// What a simulated root has issued is no root, intermediate or anchor of production,
// in whatever order they come, and however long the root has been gone.
func TestNothingBelowASimulatedRoot(t *testing.T) {
	r := newRegistry(t)
	if _, err := r.CreateNamespace(t.Context(), trusteeapi.Namespace{Name: "sim", Simulated: true}); err != nil {
		t.Fatal(err)
	}
	root := newCA(t, named("a machine's root"), nil)
	sub := newCA(t, named("Genuine TPM Maker"), root)
	marked := newCA(t, pkix.Name{CommonName: "ARK-Genoa", Organization: []string{simhw.Organization}}, nil)
	below := newCA(t, named("Genuine TPM Maker"), marked) // whose root nobody has registered
	genuine := newCA(t, named("maker"), nil)
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrConflict) {
			t.Errorf("%s: %v", what, err)
		}
	}
	known, err := r.AddRoot(t.Context(), "sim", "", root.pem(), false)
	if err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		for _, intermediate := range []bool{false, true} {
			for what, c := range map[string]*ca{"a sub-CA": sub, "a marked root": marked, "a CA below a marked one": below, "the root itself": root} {
				_, err := r.AddRoot(t.Context(), ns, "", c.pem(), intermediate)
				refused(what, err)
			}
		}
		for what, c := range map[string]*ca{"a sub-CA": sub, "a marked root": marked} {
			_, err := r.SetAnchor(t.Context(), ns, "nvidiadpu", "roots", "a", []byte(genuine.pem()+c.pem()))
			refused(what+" as an anchor", err)
		}
	}
	check()
	if err := r.DeleteEKRoot(t.Context(), "sim", known.ID); err != nil {
		t.Fatal(err)
	}
	check()
	if _, err := r.AddRoot(t.Context(), ns, "", genuine.pem(), false); err != nil {
		t.Error(err)
	}
	// The other way round: what production trusts first.
	late := newCA(t, named("another machine's root"), nil)
	if _, err := r.AddRoot(t.Context(), ns, "", newCA(t, named("Maker of TPMs"), late).pem(), false); err != nil {
		t.Fatal(err)
	}
	_, err = r.AddRoot(t.Context(), "sim", "", late.pem(), false)
	refused("a simulated root that issued production's", err)
	later := newCA(t, named("a third machine's root"), nil)
	if _, err := r.SetAnchor(t.Context(), ns, "nvidiadpu", "roots", "a", []byte(newCA(t, named("DPU maker"), later).pem())); err != nil {
		t.Fatal(err)
	}
	_, err = r.AddRoot(t.Context(), "sim", "", later.pem(), false)
	refused("a simulated root that issued production's anchor", err)
}

// An older spelling of a TEE is kept as the name that verifiers ask by.
func TestRootOfAnotherSpelling(t *testing.T) {
	r := newRegistry(t)
	if _, err := r.CreateNamespace(t.Context(), trusteeapi.Namespace{Name: "sim", Simulated: true}); err != nil {
		t.Fatal(err)
	}
	c := newCA(t, named("machine"), nil)
	a, err := r.AddRoot(t.Context(), "sim", "azsnpvtpm", c.pem(), false)
	if err != nil || a.TEE != "az-snp-vtpm" || !strings.HasSuffix(a.ID, ".az-snp-vtpm") {
		t.Errorf("%+v, %v", a, err)
	}
	b, err := r.AddRoot(t.Context(), "sim", "az-snp-vtpm", c.pem(), false)
	if err != nil || b.ID != a.ID {
		t.Errorf("%+v, %v", b, err)
	}
	trust, err := r.Trust(t.Context(), "sim", time.Now())
	if err != nil || len(trust.SimulatedRoots("az-snp-vtpm")) != 1 {
		t.Errorf("%v", err)
	}
}

// An enrolled attestation key says of which kind it is, and counts for no other.
func TestEnrolledKeyIsMarked(t *testing.T) {
	r := newRegistry(t)
	name := "000b" + strings.Repeat("ab", 32)
	k, err := r.EnrollAK(t.Context(), ns, name, "")
	if err != nil || k.Kind != "production" {
		t.Fatalf("%+v, %v", k, err)
	}
	count := func() int {
		t.Helper()
		trust, err := r.Trust(t.Context(), ns, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return len(trust.EnrolledAKs)
	}
	if count() != 1 {
		t.Error("the key does not count")
	}
	put := func(bucket, key string, v any) {
		t.Helper()
		if err := r.store.Update(t.Context(), func(tx store.Tx) error { return store.PutJSON(tx, bucket, key, v) }); err != nil {
			t.Fatal(err)
		}
	}
	k.Kind = "simulated"
	put(Bucket(ns, enrolled), name, k)
	if count() != 0 {
		t.Error("a key marked as simulated counts in production")
	}
	k.Kind = "" // enrolled before there were marks
	put(Bucket(ns, enrolled), name, k)
	if count() != 1 {
		t.Error("a key without a mark does not count")
	}
	// What is marked as simulated once is never enrolled.
	other := "000b" + strings.Repeat("cd", 32)
	if err := r.store.Update(t.Context(), func(tx store.Tx) error { return r.markKind(tx, akMark+other, true) }); err != nil {
		t.Fatal(err)
	}
	if _, err := r.EnrollAK(t.Context(), ns, other, ""); !errors.Is(err, ErrConflict) {
		t.Errorf("got %v", err)
	}
}
