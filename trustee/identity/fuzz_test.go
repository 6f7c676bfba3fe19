package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"testing"
)

// FuzzParseRequest: whatever a peer sends is refused or is a request by a key of P-256.
func FuzzParseRequest(f *testing.F) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	b, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if (err == nil) != (r != nil) {
			t.Fatal("neither a request nor an error")
		}
		if err == nil {
			if spki, err := r.SPKI(); err != nil || len(spki) == 0 {
				t.Fatal(err)
			}
		}
	})
}

// TestOtherKinds: keys of other kinds are refused, though their requests are good.
func TestOtherKinds(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []any{p384, rsaKey} {
		b, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRequest(b); err == nil {
			t.Errorf("%T is taken", k)
		}
	}
}
