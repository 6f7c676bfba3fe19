package remoteas

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Peer says where another service is and how both know each other.
type Peer struct {
	// Address is a URL: https://host:port, or http://host:port on loopback.
	Address string
	// CA (PEM) is who issues the service's certificate; Certificate and Key (PEM) are
	// this trustee's own as a client. Only https has them. They are files; the latter
	// two are read anew for each connection.
	CA, Certificate, Key string
}

// maxAnswer bounds one answer, in bytes.
const maxAnswer = 256 << 10

// Dial prepares the connection. Nothing is sent before the first question, so that
// services may start in any order.
func Dial(p Peer) (*grpc.ClientConn, error) {
	u, err := url.Parse(p.Address)
	if err != nil || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("address %.128q is not a scheme, a host and a port", p.Address)
	}
	if u.Port() == "" {
		return nil, fmt.Errorf("address %.128q has no port", p.Address)
	}
	c, err := p.credentials(u)
	if err != nil {
		return nil, err
	}
	// Straight to the address: a proxy from the environment is nobody's choice here.
	return grpc.NewClient("passthrough:///"+u.Host, grpc.WithTransportCredentials(c), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)), grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
}

func (p *Peer) credentials(u *url.URL) (credentials.TransportCredentials, error) {
	switch u.Scheme {
	case "http":
		ip := net.ParseIP(u.Hostname())
		if u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("%s is not loopback, so that both sides need certificates: use https, an authority, a certificate and its key", p.Address)
		}
		if p.CA != "" || p.Certificate != "" || p.Key != "" {
			return nil, fmt.Errorf("%s: certificates are given, and http has none: use https", p.Address)
		}
		return insecure.NewCredentials(), nil
	case "https":
		return p.tls()
	}
	return nil, fmt.Errorf("scheme %.20q is neither https nor http", u.Scheme)
}

func (p *Peer) tls() (credentials.TransportCredentials, error) {
	if p.CA == "" || p.Certificate == "" || p.Key == "" {
		return nil, errors.New("https needs an authority for the service's certificate, and a certificate with its key for this trustee")
	}
	roots := x509.NewCertPool()
	l, err := certificates(p.CA)
	if err != nil {
		return nil, fmt.Errorf("authority of the service: %w", err)
	}
	for _, c := range l {
		roots.AddCert(c)
	}
	own := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(p.Certificate, p.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate for the service: %w", err)
		}
		return &pair, nil
	}
	if _, err := own(); err != nil { // now rather than at the first guest
		return nil, err
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own() },
	}), nil
}
