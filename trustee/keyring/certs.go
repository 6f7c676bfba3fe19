package keyring

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/ear"
)

// Lifetimes. The CA's certificate is pinned in initdata documents, so it lives
// long. A token key's certificate outlives the key (TokenKeyAge), if rotating it
// should fail for a while.
const (
	caLife    = 10 * 365 * 24 * time.Hour
	tlsLife   = 365 * 24 * time.Hour
	tlsMargin = 30 * 24 * time.Hour
	tokenLife = 365 * 24 * time.Hour
	backdate  = time.Hour // for clocks that are a little slow
)

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

func selfSign(key crypto.Signer, instance string, now time.Time) ([]byte, error) {
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Coffer trustee " + instance},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
}

func signEAR(ca *x509.Certificate, caKey crypto.Signer, pub crypto.PublicKey, now time.Time) ([]byte, error) {
	u, err := url.Parse(ear.SignerURI)
	if err != nil {
		return nil, err
	}
	end := now.Add(tokenLife)
	if end.After(ca.NotAfter) {
		end = ca.NotAfter
	}
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Coffer attestation results"},
		NotBefore: now.Add(-backdate), NotAfter: end, URIs: []*url.URL{u},
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}, ca, pub, caKey)
}

func signTLS(ca *x509.Certificate, caKey crypto.Signer, pub crypto.PublicKey, names []string, now time.Time) ([]byte, error) {
	end := now.Add(tlsLife)
	if end.After(ca.NotAfter) {
		end = ca.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Coffer trustee"},
		NotBefore: now.Add(-backdate), NotAfter: end, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	t.DNSNames, t.IPAddresses = splitNames(names)
	return x509.CreateCertificate(rand.Reader, t, ca, pub, caKey)
}

func splitNames(names []string) (dns []string, ips []net.IP) {
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, n)
		}
	}
	return dns, ips
}

// fits reports whether a certificate has exactly these names and some life left.
func fits(c *x509.Certificate, names []string, now time.Time) bool {
	dns, ips := splitNames(names)
	have, want := slices.Clone(c.DNSNames), dns
	for _, ip := range c.IPAddresses {
		have = append(have, ip.String())
	}
	for _, ip := range ips {
		want = append(want, ip.String())
	}
	slices.Sort(have)
	slices.Sort(want)
	return slices.Equal(slices.Compact(have), slices.Compact(want)) && now.Add(tlsMargin).Before(c.NotAfter) && !now.Before(c.NotBefore)
}
