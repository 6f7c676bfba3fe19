package verifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
)

// A manufacturer's root certifies more than endorsement keys.
func TestEKUsage(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "maker of chips"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	issue := func(c *x509.Certificate) []byte {
		t.Helper()
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(2), root.NotBefore, root.NotAfter
		der, err := x509.CreateCertificate(rand.Reader, c, root, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	v, err := New(Config{Simulated: Production, CredentialKey: make([]byte, 32), EKRoots: []*x509.Certificate{root}})
	if err != nil {
		t.Fatal(err)
	}
	aik := []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
	for name, c := range map[string]struct {
		cert *x509.Certificate
		ok   bool
	}{
		"EK":                        {&x509.Certificate{UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKCertificate}}, true},
		"older EK, RSA":             {&x509.Certificate{KeyUsage: x509.KeyUsageKeyEncipherment}, true},
		"older EK, ECC":             {&x509.Certificate{KeyUsage: x509.KeyUsageKeyAgreement}, true},
		"attestation key":           {&x509.Certificate{UnknownExtKeyUsage: aik}, false},
		"server":                    {&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageKeyAgreement}, false},
		"device key for signatures": {&x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature}, false},
		"no usage":                  {&x509.Certificate{}, false},
	} {
		err := v.verifyEK(issue(c.cert), &Input{Now: time.Now()}, new(Result))
		d, denied := errors.AsType[*denial.Denial](err)
		if c.ok && err != nil || !c.ok && (!denied || d.Reason != ReasonEKUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
