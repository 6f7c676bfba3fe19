package nvidiatest

import (
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/nvidia/sim"
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

// Manifest writes a signed manifest in NVIDIA's shape. golden is by index from
// 0; what is not there is inactive.
func (p *Publisher) Manifest(t testing.TB, product, version string, golden map[int][][]byte) []byte {
	t.Helper()
	b, err := sim.Manifest(p.Signer.Key, p.Chain, product, version, golden)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
