package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync/atomic"

	"github.com/cofferproject/coffer/trustee/credential"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/oidc"
)

// access is who may administrate.
type access struct {
	credentials *credential.Store
	providers   *oidc.Providers
	clientCA    atomic.Pointer[x509.CertPool] // of AdminClientCA
}

func (s *Server) openAccess(ctx context.Context) error {
	key, err := keyring.BearerKey(ctx, s.store, s.kek)
	if err != nil {
		return err
	}
	s.credentials = credential.New(s.store, s.cfg.Limits, key, s.cfg.Now)
	if s.providers, err = oidc.New(s.cfg.AdminIssuers, s.cfg.Log, s.cfg.Now); err != nil {
		return err
	}
	return s.readClientCA()
}

func (s *Server) readClientCA() error {
	if s.cfg.AdminClientCA == "" {
		return nil
	}
	b, err := readBounded(s.cfg.AdminClientCA, maxPEM)
	if err != nil {
		return fmt.Errorf("authorities of administrators: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return fmt.Errorf("authorities of administrators: %s holds no certificate", s.cfg.AdminClientCA)
	}
	s.clientCA.Store(pool)
	return nil
}

// askForCertificates has peers asked for a certificate, which none has to have: a
// guest has none. Whose it is, is looked at where it would count, each time.
func (s *Server) askForCertificates(c *tls.Config) {
	if s.cfg.AskForCertificates || s.cfg.AdminClientCA != "" {
		c.ClientAuth = tls.RequestClientCert
	}
}
