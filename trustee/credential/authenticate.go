package credential

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
)

// Caller is who asks, and what he has been given.
type Caller struct {
	Actor  string   // for the audit log
	IDs    []string // of the credentials that were shown; what he gives names them
	Grants []trusteeapi.Grant
}

// In gives the roles that hold in a namespace; for trusteeapi.AllNamespaces those
// that hold in all of them.
func (c *Caller) In(ns string) (out []trusteeapi.Role) {
	for _, g := range c.Grants {
		if g.Namespace == ns || g.Namespace == trusteeapi.AllNamespaces {
			out = append(out, g.Role)
		}
	}
	return out
}

// narrowed gives the caller with his grants of one role.
func (c *Caller) narrowed(r trusteeapi.Role) {
	c.Grants = slices.DeleteFunc(slices.Clone(c.Grants), func(g trusteeapi.Grant) bool { return g.Role != r })
}

// Errors of credentials, beside those of the tokens themselves.
var (
	ErrUnknown = errors.New("no credential of this trustee")
	ErrExpired = errors.New("the credential has expired")
)

func (s *Store) alive(c *trusteeapi.Credential) error {
	switch {
	case c == nil:
		return ErrUnknown
	case !c.Expires.IsZero() && !s.now().Before(c.Expires):
		return ErrExpired
	}
	return nil
}

// Still reports whether what a caller was given when he was authenticated is given him
// still: ErrUnknown or ErrExpired where one of his credentials has ended since, or has
// lost a grant. Whoever lets him wait in between, or waits for him, asks again.
func (s *Store) Still(ctx context.Context, by *Caller) error {
	return s.store.View(ctx, func(tx store.Tx) error { return s.still(tx, by) })
}

func (s *Store) still(tx store.Tx, by *Caller) error {
	if len(by.IDs) == 0 {
		return ErrUnknown
	}
	var has []trusteeapi.Grant
	for _, id := range by.IDs {
		c, err := get(tx, id)
		if err != nil {
			return err
		}
		if err := s.alive(c); err != nil {
			return err
		}
		has = append(has, c.Grants...)
	}
	for _, g := range by.Grants {
		if !slices.Contains(has, g) {
			return ErrUnknown
		}
	}
	return nil
}

func (s *Store) live(ctx context.Context, id string) (c *trusteeapi.Credential, err error) {
	err = s.store.View(ctx, func(tx store.Tx) error {
		c, err = get(tx, id)
		return err
	})
	if err == nil {
		err = s.alive(c)
	}
	return c, err
}

// Bearer gives who sends a bearer token; trusteeapi.ErrNotBearer where it is another
// kind of token.
func (s *Store) Bearer(ctx context.Context, raw string) (*Caller, error) {
	b, err := trusteeapi.VerifyBearer(raw, s.signer.Public(), s.now())
	if err != nil {
		return nil, err
	}
	c, err := s.live(ctx, b.ID)
	if err != nil {
		return nil, err
	}
	if c.Kind != trusteeapi.CredentialToken {
		return nil, ErrUnknown
	}
	return &Caller{"token:" + c.ID, []string{c.ID}, c.Grants}, nil
}

// Signed gives who has signed a token for one request. The caller of it sees to it
// that the id is used once.
func (s *Store) Signed(ctx context.Context, raw, method, path string, now time.Time) (*Caller, *trusteeapi.Token, error) {
	t, err := trusteeapi.ParseToken(raw)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.live(ctx, t.KeyID)
	if err != nil {
		return nil, nil, err
	}
	if c.Kind != trusteeapi.CredentialKey {
		return nil, nil, ErrUnknown
	}
	pub, err := parsePublic(c.PublicKey)
	if err != nil {
		return nil, nil, fmt.Errorf("stored %w", err)
	}
	if err := t.Verify(pub, method, path, now); err != nil {
		return nil, nil, err
	}
	caller := &Caller{t.KeyID, []string{c.ID}, c.Grants}
	if t.Claims.Role != "" {
		caller.narrowed(t.Claims.Role)
	}
	return caller, t, nil
}

// Certificate gives whose client certificate this is. The TLS handshake has shown
// that the peer has its key; authorities, if not nil, are those whose names count.
func (s *Store) Certificate(ctx context.Context, chain []*x509.Certificate, authorities *x509.CertPool) (*Caller, error) {
	leaf := chain[0]
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	id, now := hex.EncodeToString(sum[:]), s.now() // seal.KeyID, of keys that cannot seal as well
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return nil, errors.New("client certificate: not valid now")
	}
	var subjects []string
	if issuedBy(authorities, chain, now) {
		subjects = subjectsOf(leaf)
	}
	out := &Caller{Actor: "cert:" + id}
	err := s.store.View(ctx, func(tx store.Tx) error {
		c, err := get(tx, id)
		if err != nil {
			return err
		}
		if c != nil && c.Kind == trusteeapi.CredentialKey && s.alive(c) == nil {
			out.Grants, out.IDs = append(out.Grants, c.Grants...), append(out.IDs, c.ID)
		}
		for _, n := range subjects {
			found, err := s.named(tx, out, digest(trusteeapi.CredentialCertificate, n))
			if err != nil {
				return err
			}
			if found {
				out.Actor += " " + n
			}
		}
		return nil
	})
	return out.known(err)
}

// Identity gives what somebody may do whom an identity provider knows by these names.
func (s *Store) Identity(ctx context.Context, actor string, subjects []string) (*Caller, error) {
	out := &Caller{Actor: actor}
	err := s.store.View(ctx, func(tx store.Tx) error {
		for _, n := range subjects {
			if _, err := s.named(tx, out, digest(trusteeapi.CredentialOIDC, n)); err != nil {
				return err
			}
		}
		return nil
	})
	return out.known(err)
}

func issuedBy(authorities *x509.CertPool, chain []*x509.Certificate, now time.Time) bool {
	if authorities == nil {
		return false
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: authorities, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err == nil
}

func subjectsOf(c *x509.Certificate) (out []string) {
	for _, u := range c.URIs {
		out = append(out, "uri:"+u.String())
	}
	for _, n := range c.DNSNames {
		out = append(out, "dns:"+n)
	}
	for _, n := range c.EmailAddresses {
		out = append(out, "email:"+n)
	}
	if n := c.Subject.CommonName; n != "" {
		out = append(out, "cn:"+n)
	}
	return out
}

// named adds the grants of all live credentials of a name.
func (s *Store) named(tx store.Tx, to *Caller, name string) (found bool, err error) {
	var ids []string
	if err := tx.Scan(names, name+"/", func(k string, _ []byte) (bool, error) {
		id, ok := strings.CutPrefix(k, name+"/")
		if ok {
			ids = append(ids, id)
		}
		return ok, nil
	}); err != nil {
		return false, err
	}
	for _, id := range ids {
		c, err := get(tx, id)
		if err != nil {
			return false, err
		}
		if s.alive(c) == nil {
			to.Grants, to.IDs, found = append(to.Grants, c.Grants...), append(to.IDs, c.ID), true
		}
	}
	return found, nil
}

func (c *Caller) known(err error) (*Caller, error) {
	if err != nil {
		return nil, err
	}
	if len(c.Grants) == 0 {
		return nil, ErrUnknown
	}
	return c, nil
}
