package measure

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
)

// A key slot that IBM's library made for a host key begins with the key's hash.
func TestHostKeyHash(t *testing.T) {
	doc := testdata(t, "host.pem.crt")
	b, _ := pem.Decode(doc)
	if b == nil {
		t.Fatal("no PEM")
	}
	want := testdata(t, "keyslot.bin")[:32]
	for name, d := range map[string][]byte{"PEM": doc, "DER": b.Bytes} {
		if h, err := HostKeyHash(d); err != nil || !bytes.Equal(h, want) {
			t.Errorf("%s: %x, %v, want %x", name, h, err, want)
		}
	}
	for name, d := range map[string][]byte{
		"empty": nil, "two": append(bytes.Clone(doc), doc...), "cut": b.Bytes[:len(b.Bytes)-1], "padded": append(bytes.Clone(b.Bytes), 0),
		"a key":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: b.Bytes}),
		"too large": make([]byte, maxDocument+1),
	} {
		if _, err := HostKeyHash(d); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestHostKeyOnAnotherCurve(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := HostKeyHash(der); err == nil || !strings.Contains(err.Error(), "P-521") {
		t.Errorf("%x, %v", h, err)
	}
}

func FuzzHostKeyHash(f *testing.F) {
	f.Add(testdata(f, "host.pem.crt"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := HostKeyHash(b); err == nil && len(h) != 32 {
			t.Errorf("hash of %d bytes", len(h))
		}
	})
}
