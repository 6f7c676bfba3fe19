package witness

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
)

// Target is where checkpoints go.
type Target struct {
	// URL is https://host/path (a webhook), syslog+tls://host:port, syslog+tcp://host:port
	// or syslog+unix:///path of a socket.
	URL string
	// CAFile has who vouches for the receiver (PEM); "": the system's.
	CAFile string
	// CertFile and KeyFile say who sends (PEM); "" and "": nobody does.
	CertFile, KeyFile string
	// HMACFile is a key of at least 32 bytes that signs what is sent to a webhook.
	HMACFile string
	// Hostname of the sender in syslog; "": the machine's.
	Hostname string
}

// receiver makes what a target says, and refuses what it leaves open.
func (t Target) receiver() (receiver, error) {
	u, err := url.Parse(t.URL)
	if err != nil {
		return nil, errors.New("malformed URL")
	}
	name := u.Redacted()
	switch {
	case u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("%s: a URL without user and fragment", name)
	case u.Scheme == "syslog+unix":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") {
			return nil, fmt.Errorf("%s: syslog+unix:// and an absolute path", name)
		}
		return t.syslog("unix", u.Path, nil)
	case u.Host == "":
		return nil, fmt.Errorf("%s: no host", name)
	case u.Scheme == "syslog+tcp":
		return t.syslog("tcp", u.Host, nil)
	case u.Scheme == "syslog+tls" || u.Scheme == "https":
	default:
		return nil, fmt.Errorf("%s: neither https nor syslog+tls, syslog+tcp or syslog+unix", name)
	}
	conf, err := t.tls()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if u.Scheme == "https" {
		return t.webhook(u, conf)
	}
	conf.ServerName = u.Hostname()
	return t.syslog("tcp", u.Host, conf)
}

func (t Target) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		b, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s: no certificate", t.CAFile)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("a certificate and its key belong together")
	}
	if t.CertFile != "" {
		// Read anew for each connection: it is renewed under its name.
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			k, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			return &k, err
		}
	}
	return c, nil
}
