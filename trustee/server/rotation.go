package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// watched is what the files of the TLS certificate were when they were last looked
// at. It is of housekeeping alone.
type watched struct{ files string }

// tlsFiles takes the certificate anew when one of its files has changed. One that
// cannot be used leaves the certificate that is served as it is.
func (s *Server) tlsFiles(ctx context.Context) error {
	if s.cfg.CertFile == "" {
		return nil
	}
	now, err := stamps(s.cfg.CertFile, s.cfg.KeyFile)
	if err != nil {
		now = err.Error() // said once, too
	}
	before := s.watched.files
	s.watched.files = now
	switch {
	case now == before:
		return nil
	case err != nil:
		return err
	case before == "": // they were read at the start
		return nil
	}
	if err := s.renewTLS(ctx); err != nil {
		return fmt.Errorf("the certificate stays what it was: %w", err)
	}
	s.cfg.Log.Info("the TLS certificate was read anew")
	return nil
}

// stamps tells the states of files apart.
func stamps(paths ...string) (string, error) {
	var out string
	for _, p := range paths {
		fi, err := os.Stat(p)
		if err != nil {
			return "", err
		}
		out += fmt.Sprintf("%d %d", fi.Size(), fi.ModTime().UnixNano())
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			out += fmt.Sprintf(" %d %d", st.Dev, st.Ino)
		}
		out += "\n"
	}
	return out, nil
}

// Reload reads the files of TLS certificate and administrators' authorities anew,
// and what other replicas have changed. What cannot be read stays as it was.
func (s *Server) Reload(ctx context.Context) error {
	return errors.Join(s.renewTLS(ctx), s.readClientCA(), s.tokens.Refresh(ctx), s.remote.reload())
}

// renewTokenKeys rotates keys that have reached their age.
func (s *Server) renewTokenKeys(ctx context.Context) error {
	return s.tokens.Renew(ctx, func(ns string) error {
		return s.audit.Append(ctx, &audit.Entry{
			Kind: audit.KindAdmin, Record: record.NewID(), Namespace: ns, Actor: "coffer-trustee", Action: fmt.Sprintf("rotate token key older than %s", keyring.TokenKeyAge),
		})
	})
}

// renewIdentities rotates authorities of identities that have reached their age.
func (s *Server) renewIdentities(ctx context.Context) error {
	return s.identities.Renew(ctx, func(ns string) error {
		return s.audit.Append(ctx, &audit.Entry{
			Kind: audit.KindAdmin, Record: record.NewID(), Namespace: ns, Actor: "coffer-trustee", Action: fmt.Sprintf("rotate authority of identities older than %s", keyring.IdentityAge),
		})
	})
}

func hasNamespace(tx store.Tx, ns string) error {
	_, err := tenant.GetNamespace(tx, ns)
	return err
}
