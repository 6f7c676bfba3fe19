package revocation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/cofferproject/coffer/tee/collateral"
)

// FuzzCheckPublished: whatever origin, document and chain are, nothing fails by a fault
// of its own, and nothing is taken that the issuer did not sign.
func FuzzCheckPublished(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte("root"),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		f.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour)}, root, key)
	if err != nil {
		f.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(7)}
	request, err := ocsp.CreateRequest(leaf, root, nil)
	if err != nil {
		f.Fatal(err)
	}
	response, err := ocsp.CreateResponse(root, root, ocsp.Response{Status: ocsp.Good, SerialNumber: leaf.SerialNumber, ThisUpdate: now, NextUpdate: now.Add(time.Hour)}, key)
	if err != nil {
		f.Fatal(err)
	}
	good := map[string][]byte{"https://maker.example/a.crl": list, "https://maker.example/" + url.PathEscape(base64.StdEncoding.EncodeToString(request)): response}
	for origin, body := range good {
		it := &collateral.Item{Origin: origin, Body: body, Chain: chain}
		issuers, err := Issuers(it)
		if err != nil {
			f.Fatal(err)
		}
		if v, err := CheckPublished(it, issuers[0]); err != nil || !v.Until.After(v.Issued) {
			f.Fatalf("%s: %+v, %v", origin, v, err)
		}
		f.Add(origin, body, chain)
	}
	f.Fuzz(func(t *testing.T, origin string, body, chain []byte) {
		it := &collateral.Item{Origin: origin, Body: body, Chain: chain}
		if issuers, err := Issuers(it); err == nil {
			_, _ = CheckPublished(it, issuers[0]) // the input may bring issuers of its own
		}
		if _, err := CheckPublished(it, root); err == nil && string(body) != string(list) && string(body) != string(response) {
			t.Errorf("%q with a document that the root did not sign", origin)
		}
	})
}
