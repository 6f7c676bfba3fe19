package crl

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
)

var day = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t testing.TB, name string, keyID []byte) *ca {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: day.AddDate(-1, 0, 0), NotAfter: day.AddDate(9, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: keyID,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{c, k}
}

func (c *ca) list(t testing.TB, change func(*x509.RevocationList)) []byte {
	t.Helper()
	l := &x509.RevocationList{
		Number: big.NewInt(7), ThisUpdate: day, NextUpdate: day.AddDate(0, 1, 0),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(5), RevocationTime: day, ReasonCode: 1}},
	}
	if change != nil {
		change(l)
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, c.cert, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func ext(critical bool, value []byte, id ...int) pkix.Extension {
	return pkix.Extension{Id: id, Critical: critical, Value: value}
}

func TestParse(t *testing.T) {
	issuer := newCA(t, "issuer", []byte("key id"))
	namesake, cousin := newCA(t, "issuer", []byte("key id")), newCA(t, "cousin", []byte("key id"))
	null := []byte{5, 0}
	list := func(e ...pkix.Extension) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.ExtraExtensions = e }
	}
	entry := func(e ...pkix.Extension) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ExtraExtensions = e }
	}
	invalidity, err := asn1.Marshal(day)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		by     *ca
		change func(*x509.RevocationList)
		want   error
	}{
		"good":                                   {issuer, nil, nil},
		"unknown extension, not critical":        {issuer, list(ext(false, null, 1, 2, 3)), nil},
		"unknown critical extension":             {issuer, list(ext(true, null, 1, 2, 3)), ErrUnsupported},
		"delta":                                  {issuer, list(ext(true, []byte{2, 1, 1}, 2, 5, 29, 27)), ErrUnsupported},
		"indirect":                               {issuer, list(ext(true, []byte{0x30, 3, 0x84, 1, 0xff}, 2, 5, 29, 28)), ErrUnsupported},
		"indirect, not marked critical":          {issuer, list(ext(false, []byte{0x30, 3, 0x84, 1, 0xff}, 2, 5, 29, 28)), ErrUnsupported},
		"only CA certificates":                   {issuer, list(ext(true, []byte{0x30, 3, 0x82, 1, 0xff}, 2, 5, 29, 28)), ErrUnsupported},
		"an extension twice":                     {issuer, list(ext(false, null, 1, 2, 3), ext(false, null, 1, 2, 3)), ErrMalformed},
		"entry: unknown extension, not critical": {issuer, entry(ext(false, null, 1, 2, 3)), nil},
		"entry: invalidity date":                 {issuer, entry(ext(false, invalidity, 2, 5, 29, 24)), nil},
		"entry: unknown critical extension":      {issuer, entry(ext(true, null, 1, 2, 3)), ErrUnsupported},
		"entry: of another issuer":               {issuer, entry(ext(true, []byte{0x30, 0}, 2, 5, 29, 29)), ErrUnsupported},
		"entry: removed from the list":           {issuer, func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 8 }, ErrUnsupported},
		"number too long":                        {issuer, list(ext(false, append([]byte{2, 21, 1}, make([]byte, 20)...), 2, 5, 29, 20)), ErrMalformed},
		"an issuer of the same name":             {namesake, nil, ErrUntrusted},
		"an issuer of another name":              {cousin, nil, ErrUntrusted},
	} {
		l, err := Parse(c.by.list(t, c.change), issuer.cert)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil && (len(l.RevokedCertificateEntries) != 1 || l.Number.Int64() != 7) {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

// The issuer's key renamed: the same name and key, another key identifier.
func TestKeyIdentifier(t *testing.T) {
	issuer := newCA(t, "issuer", []byte("key id"))
	other := *issuer.cert
	other.SubjectKeyId = []byte("another")
	if _, err := Parse(issuer.list(t, nil), &other); !errors.Is(err, ErrUntrusted) {
		t.Errorf("another key identifier: %v", err)
	}
	other.SubjectKeyId = nil
	if _, err := Parse(issuer.list(t, nil), &other); err != nil {
		t.Errorf("an issuer without key identifier: %v", err)
	}
}

// What CreateRevocationList refuses to make is cut out of a good list. Its
// signature breaks with that, and is looked at last.
func TestLacks(t *testing.T) {
	issuer := newCA(t, "issuer", []byte("key id"))
	for name, cut := range map[string]func(*tbs){
		"no next update": func(l *tbs) { l.NextUpdate = time.Time{} },
		"ends before it begins": func(l *tbs) {
			l.NextUpdate = l.ThisUpdate
		},
		"no number": func(l *tbs) { l.Extensions = l.Extensions[:1] },
	} {
		var v list
		if _, err := asn1.Unmarshal(issuer.list(t, nil), &v); err != nil {
			t.Fatal(err)
		}
		v.TBS.Raw = nil
		cut(&v.TBS)
		der, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x509.ParseRevocationList(der); err != nil {
			t.Fatalf("%s: the list is broken in another way: %v", name, err)
		}
		if _, err := Parse(der, issuer.cert); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type list struct {
	TBS       tbs
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

type tbs struct {
	Raw        asn1.RawContent
	Version    int
	Algorithm  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	ThisUpdate time.Time
	NextUpdate time.Time        `asn1:"optional"`
	Revoked    []asn1.RawValue  `asn1:"optional"`
	Extensions []pkix.Extension `asn1:"explicit,tag:0"`
}

func FuzzParse(f *testing.F) {
	issuer := newCA(f, "issuer", []byte("key id"))
	f.Add(issuer.list(f, nil))
	f.Add(issuer.list(f, func(l *x509.RevocationList) {
		l.ExtraExtensions = []pkix.Extension{ext(true, []byte{0x30, 3, 0x84, 1, 0xff}, 2, 5, 29, 28)}
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(b, issuer.cert)
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUntrusted) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("an error of no kind: %v", err)
		}
		if err == nil && (l.Number == nil || l.NextUpdate.IsZero()) {
			t.Error("a list without number or end")
		}
	})
}
