package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/cofferproject/coffer/api/kbs"
)

func (s *Server) renewTLS(ctx context.Context) error {
	if s.cfg.CertFile != "" {
		c, anchor, err := certificateFiles(s.cfg.CertFile, s.cfg.KeyFile, s.cfg.Now())
		if err != nil {
			return err
		}
		if err := s.use(c); err != nil {
			return err
		}
		s.anchor.Store(&anchor)
		return nil
	}
	c, err := s.keys.TLS(ctx, s.store, s.kek, s.names(), s.cfg.Now())
	if err != nil {
		return err
	}
	return s.use(c)
}

// presented is a certificate, and the binding value of its key.
type presented struct {
	*tls.Certificate
	key string
}

func (s *Server) use(c *tls.Certificate) error {
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return fmt.Errorf("TLS certificate: %w", err)
	}
	s.cert.Store(&presented{c, kbs.KeyBinding(leaf.RawSubjectPublicKeyInfo)})
	return nil
}

// present gives the certificate for a new connection, and has the connection remember
// it: a later one does not change what that peer was shown.
func (s *Server) present(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c := s.cert.Load()
	if l := limitedOf(hello.Conn); l != nil {
		l.presented.Store(&c.key)
	}
	return c.Certificate, nil
}
