package registry

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"sync"
	"time"
)

// floorTransport judges certificates at a time that is only a lower bound. The
// standard verification cannot leave NotBefore out, and the callback that can
// does not always learn the name that was dialled: so every host has a transport
// whose callback knows it.
type floorTransport struct {
	make  func(host string) *http.Transport
	mu    sync.Mutex
	hosts map[string]*http.Transport
}

// RoundTrip sends one request.
func (f *floorTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	host := r.URL.Hostname()
	f.mu.Lock()
	t := f.hosts[host]
	if t == nil {
		t = f.make(host)
		f.hosts[host] = t
	}
	f.mu.Unlock()
	return t.RoundTrip(r)
}

// floorTLS verifies what the standard does, for host, but for NotBefore.
func floorTLS(host string, roots *x509.CertPool, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does what it leaves out
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("server sent no certificate")
			}
			o := x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: x509.NewCertPool()}
			if now != nil {
				o.CurrentTime = now()
			}
			for _, c := range cs.PeerCertificates[1:] {
				o.Intermediates.AddCert(withoutBeginning(c))
			}
			if _, err := withoutBeginning(cs.PeerCertificates[0]).Verify(o); err != nil {
				return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
			}
			return nil
		},
	}
}

// withoutBeginning copies a certificate that is valid from ever; its signature is
// over the raw bytes, which stay.
func withoutBeginning(c *x509.Certificate) *x509.Certificate {
	out := *c
	out.NotBefore = time.Time{}
	return &out
}

func parsePEM(s string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := []byte(s); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	return out, nil
}
