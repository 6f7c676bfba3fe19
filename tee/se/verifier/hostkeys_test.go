package verifier

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

func key(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func bare(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func hostDocument(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "host key"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestParseHostKeys(t *testing.T) {
	one, two := key(t, elliptic.P521()), key(t, elliptic.P521())
	keys, err := ParseHostKeys(append(hostDocument(t, one), bare(t, two)...))
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	want, err := two.PublicKey.ECDH()
	if err != nil || !keys[1].Equal(want) {
		t.Errorf("another key, %v", err)
	}
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"text":          []byte("keys"),
		"text behind":   append(bare(t, one), "more"...),
		"another curve": bare(t, key(t, elliptic.P384())),
		"the same key":  append(hostDocument(t, one), bare(t, one)...),
		"another block": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}}),
		"broken":        pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
		"too long":      bytes.Repeat([]byte("\n"), maxHostKeyFile+1),
	} {
		if _, err := ParseHostKeys(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseHostKeys(f *testing.F) {
	k := key(f, elliptic.P521())
	f.Add(bare(f, k))
	f.Add(hostDocument(f, k))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := ParseHostKeys(b)
		if err == nil && (len(keys) == 0 || len(keys) > maxHostKeys) {
			t.Errorf("%d keys", len(keys))
		}
	})
}
