package nvidiatest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/cofferproject/coffer/tee/collateral"
)

// List makes the revocation list of an issuer, valid for a month around now.
func List(t testing.TB, issuer *CA, url string, now time.Time, revoked ...*x509.Certificate) *collateral.Item {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.AddDate(0, 0, -15), NextUpdate: now.AddDate(0, 0, 15)}
	for _, c := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: now.AddDate(0, 0, -20)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, issuer.Cert, issuer.Key)
	if err != nil {
		t.Fatal(err)
	}
	return &collateral.Item{Origin: strings.Replace(url, "http:", "https:", 1), Body: der, Fetched: now}
}

// Lists are those that a device's chain asks for.
func (v *Vendor) Lists(t testing.TB, now time.Time, revoked ...*x509.Certificate) []*collateral.Item {
	return []*collateral.Item{List(t, v.Root, ListIdentity, now, revoked...), List(t, v.Identity, ListProvisioner, now, revoked...)}
}

// Response makes an OCSP response, signed by the issuer itself or by a
// responder.
func Response(t testing.TB, c *x509.Certificate, issuer, signer *CA, status int, now time.Time) []byte {
	t.Helper()
	r := ocsp.Response{
		Status: status, SerialNumber: c.SerialNumber, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(24 * time.Hour),
		RevokedAt: now.Add(-2 * time.Hour), SignatureAlgorithm: x509.ECDSAWithSHA384,
	}
	if signer != issuer {
		r.Certificate = signer.Cert
	}
	b, err := ocsp.CreateResponse(issuer.Cert, signer.Cert, r, signer.Key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Publisher is NVIDIA as far as reference manifests go.
type Publisher struct {
	Signer *CA
	Chain  []*x509.Certificate
}

// NewPublisher makes one under a root.
func NewPublisher(t testing.TB, root *CA) *Publisher {
	ca := New(t, root, "Test Reference Value CA", nil)
	s := New(t, ca, "Test RIM Signer", func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
	})
	return &Publisher{s, []*x509.Certificate{s.Cert, ca.Cert, root.Cert}}
}

// Namespaces in scope at the signature, as canonical XML writes them.
const (
	swid    = `xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"`
	ns0     = `xmlns:ns0="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"`
	ns2     = `xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384"`
	ds      = `xmlns:ds="http://www.w3.org/2000/09/xmldsig#"`
	infoFmt = `<ds:CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"></ds:CanonicalizationMethod>` +
		`<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"></ds:SignatureMethod><ds:Reference URI="">` +
		`<ds:Transforms><ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"></ds:Transform>` +
		`<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"></ds:Transform></ds:Transforms>` +
		`<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"></ds:DigestMethod><ds:DigestValue>%s</ds:DigestValue></ds:Reference></ds:SignedInfo>`
)

// Manifest writes a signed manifest in NVIDIA's shape. golden is by index from
// 0; what is not there is inactive. The text is canonical already, so that the
// digest needs nobody's canonicalisation.
func (p *Publisher) Manifest(t testing.TB, product, version string, golden map[int][][]byte) []byte {
	t.Helper()
	var b strings.Builder
	for i := range 64 {
		values, active := golden[i], "True"
		if values == nil {
			values, active = [][]byte{make([]byte, 48)}, "False"
		}
		fmt.Fprintf(&b, "\n        "+`<ns0:Resource active="%s" alternatives="%d" index="%d" name="Measurement_%d" size="48" type="Measurement"`, active, len(values), i, i)
		for j, v := range values {
			fmt.Fprintf(&b, ` ns2:Hash%d="%s"`, j, hex.EncodeToString(v))
		}
		b.WriteString("></ns0:Resource>")
	}
	head := `<SoftwareIdentity ` + swid + ` ` + ns0 + ` ` + ns2 + ` corpus="false" name="` + product + `" patch="false" supplemental="false" tagId="1" tagVersion="0" version="1.0">` +
		"\n    " + `<ns0:Entity name="test" role="softwareCreator tagCreator"></ns0:Entity>` + "\n    " +
		`<ns0:Meta PayloadType="direct" colloquialVersion="` + version + `" edition="GPU" product="` + product + `" revision="r1"></ns0:Meta>` + "\n    " +
		"<ns0:Payload>" + b.String() + "\n    </ns0:Payload>\n"
	const tail = "</SoftwareIdentity>"
	digest := sha512.Sum384([]byte(head + tail))
	info := fmt.Sprintf(infoFmt, base64.StdEncoding.EncodeToString(digest[:]))
	h := sha512.Sum384([]byte(`<ds:SignedInfo ` + swid + ` ` + ds + ` ` + ns0 + ` ` + ns2 + `>` + info))
	r, s, err := ecdsa.Sign(rand.Reader, p.Signer.Key, h[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 96)
	r.FillBytes(sig[:48])
	s.FillBytes(sig[48:])
	var certs strings.Builder
	for _, c := range p.Chain {
		certs.WriteString("<ds:X509Certificate>" + base64.StdEncoding.EncodeToString(c.Raw) + "\n</ds:X509Certificate>")
	}
	return []byte(head + `<ds:Signature ` + ds + `><ds:SignedInfo>` + info + `<ds:SignatureValue>` + base64.StdEncoding.EncodeToString(sig) +
		`</ds:SignatureValue><ds:KeyInfo><ds:X509Data>` + certs.String() + `</ds:X509Data></ds:KeyInfo></ds:Signature>` + tail + "\n")
}
