// Package credential keeps who may administrate: keys, names in client
// certificates, claims in tokens of identity providers, and bearer tokens that the
// trustee has issued, each with the roles that it has and where.
//
// Invariants: a credential that is taken back or has expired counts nowhere from
// that moment on, for every replica; nobody gives what he does not have; there is
// always an administrator's key that does not expire; a bearer token itself is
// never stored.
//
// Trust zone: trustee. What asks for a credential is hostile until verified.
package credential

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/seal"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

const (
	bucket  = "admins"
	names   = "admin-names" // digest of a certificate's or claim's name, "/", id
	maxText = 512

	// DefaultBearerLife is of bearer tokens, which whoever finds one can use.
	DefaultBearerLife = 24 * time.Hour
	// MaxBearerLife is the longest that one is given.
	MaxBearerLife = 90 * 24 * time.Hour
)

// Store keeps credentials.
type Store struct {
	store  store.Store
	limits limits.Set
	signer crypto.Signer // of bearer tokens
	now    func() time.Time
}

// New makes a Store; signer signs bearer tokens and nothing else.
func New(s store.Store, most limits.Set, signer crypto.Signer, now func() time.Time) *Store {
	return &Store{s, most, signer, now}
}

// kept is a credential at rest.
type kept struct {
	trusteeapi.Credential
	// Role is of a credential from before there were grants: it held everywhere.
	Role trusteeapi.Role `json:"role,omitempty"`
}

func get(tx store.Tx, id string) (*trusteeapi.Credential, error) {
	k, ok, err := store.GetJSON[kept](tx, bucket, id)
	if err != nil || !ok {
		return nil, err
	}
	return k.upgrade(id), nil
}

func (k *kept) upgrade(id string) *trusteeapi.Credential {
	c := &k.Credential
	if c.ID == "" {
		c.ID, c.Kind, c.Name = id, trusteeapi.CredentialKey, "first start"
		c.Grants = []trusteeapi.Grant{{Role: k.Role, Namespace: trusteeapi.AllNamespaces}}
	}
	return c
}

// RegisterFirst makes a key an administrator's, if there is no credential yet.
func RegisterFirst(ctx context.Context, s store.Store, pub crypto.PublicKey, now time.Time) (first bool, err error) {
	c := &trusteeapi.Credential{
		Kind: trusteeapi.CredentialKey, Name: "first start", Created: now.UTC(),
		Grants: []trusteeapi.Grant{{Role: trusteeapi.RoleAdmin, Namespace: trusteeapi.AllNamespaces}},
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err == nil {
		c.PublicKey = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		c.ID, err = seal.KeyID(pub)
	}
	if err != nil {
		return false, fmt.Errorf("admin credential: %w", err)
	}
	err = s.Update(ctx, func(tx store.Tx) error {
		first = true
		if err := tx.Scan(bucket, "", func(string, []byte) (bool, error) { first = false; return false, nil }); err != nil || !first {
			return err
		}
		return store.PutJSON(tx, bucket, c.ID, c)
	})
	return first, err
}

// Any reports whether there is any credential.
func Any(ctx context.Context, s store.Store) (bool, error) {
	n := 0
	err := s.View(ctx, func(tx store.Tx) error {
		return tx.Scan(bucket, "", func(string, []byte) (bool, error) { n++; return false, nil })
	})
	return n > 0, err
}

// Add keeps a credential and, for a bearer token, gives the token with it. The
// caller has checked that whoever asks, by, may give these grants; the errors of Still
// where he has lost his own since.
func (s *Store) Add(ctx context.Context, c trusteeapi.Credential, by *Caller) (*trusteeapi.Credential, error) {
	now := s.now().UTC()
	if err := s.complete(&c, now); err != nil {
		return nil, fmt.Errorf("%w: %w", tenant.ErrInvalid, err)
	}
	c.Created, c.CreatedBy, c.GivenBy = now, by.Actor, by.IDs
	err := s.store.Update(ctx, func(tx store.Tx) error {
		if err := s.still(tx, by); err != nil {
			return err
		}
		for _, g := range c.Grants {
			if g.Namespace == trusteeapi.AllNamespaces {
				continue
			}
			if _, err := tenant.GetNamespace(tx, g.Namespace); err != nil {
				return err
			}
		}
		switch have, err := get(tx, c.ID); {
		case err != nil:
			return err
		case have != nil:
			return fmt.Errorf("credential %s exists already: %w", c.ID, tenant.ErrConflict)
		}
		if err := tenant.Room(tx, s.limits, limits.Credentials, "", bucket); err != nil {
			return err
		}
		if n := nameOf(&c); n != "" {
			if err := tx.Put(names, n+"/"+c.ID, nil); err != nil {
				return err
			}
		}
		return store.PutJSON(tx, bucket, c.ID, c)
	})
	if err != nil {
		return nil, err
	}
	if c.Kind == trusteeapi.CredentialToken {
		if c.Token, err = trusteeapi.SignBearer(s.signer, c.ID, now, c.Expires); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// complete checks a credential that is to be made and gives it its id.
func (s *Store) complete(c *trusteeapi.Credential, now time.Time) error {
	if c.ID != "" || c.Token != "" || c.CreatedBy != "" || c.GivenBy != nil || !c.Created.IsZero() {
		return errors.New("credential: id, token and created are the trustee's to say")
	}
	if len(c.Grants) == 0 || len(c.Grants) > trusteeapi.MaxGrants {
		return fmt.Errorf("credential: %d grants, not 1 to %d", len(c.Grants), trusteeapi.MaxGrants)
	}
	for _, g := range c.Grants {
		if err := g.Check(); err != nil {
			return err
		}
	}
	if !printable(c.Name) || !printable(c.Subject) {
		return fmt.Errorf("credential: a text is longer than %d bytes, or has control characters", maxText)
	}
	if !c.Expires.IsZero() {
		if c.Expires = c.Expires.UTC(); !c.Expires.After(now) {
			return errors.New("credential: it would have expired already")
		}
	}
	return s.identify(c, now)
}

func (s *Store) identify(c *trusteeapi.Credential, now time.Time) error {
	of := func(members ...string) error { // members that this kind has not
		for _, m := range members {
			if m != "" {
				return fmt.Errorf("credential: a %s has no such member", c.Kind)
			}
		}
		var id [16]byte
		rand.Read(id[:])
		c.ID = hex.EncodeToString(id[:])
		return nil
	}
	switch c.Kind {
	case trusteeapi.CredentialKey:
		if err := of(c.Subject); err != nil {
			return err
		}
		pub, err := parsePublic(c.PublicKey)
		if err != nil {
			return err
		}
		c.ID, err = seal.KeyID(pub)
		return err
	case trusteeapi.CredentialCertificate:
		kind, name, ok := strings.Cut(c.Subject, ":")
		if !ok || name == "" || kind != "uri" && kind != "dns" && kind != "email" && kind != "cn" {
			return errors.New("credential: subject is not uri:, dns:, email: or cn: and a name")
		}
		return of(c.PublicKey)
	case trusteeapi.CredentialOIDC:
		issuer, claim, ok := strings.Cut(c.Subject, " ")
		name, value, is := strings.Cut(claim, "=")
		if !ok || !is || !strings.HasPrefix(issuer, "https://") || name == "" || value == "" || strings.Contains(name, " ") {
			return errors.New("credential: subject is not an issuer's https URL, a space, and CLAIM=VALUE")
		}
		return of(c.PublicKey)
	case trusteeapi.CredentialToken:
		if c.Expires.IsZero() {
			c.Expires = now.Add(DefaultBearerLife).Truncate(time.Second)
		}
		if c.Expires.Sub(now) > MaxBearerLife {
			return fmt.Errorf("credential: a token lives at most %s", MaxBearerLife)
		}
		return of(c.PublicKey, c.Subject)
	}
	return fmt.Errorf("credential: %.40q is no kind", c.Kind)
}

func parsePublic(p string) (crypto.PublicKey, error) {
	block, rest := pem.Decode([]byte(p))
	if len(p) > 8<<10 || block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 {
		return nil, errors.New("credential: public key is not exactly one PUBLIC KEY in PEM")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("credential: public key: %w", err)
	}
	return k, nil
}

func printable(s string) bool {
	return len(s) <= maxText && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// nameOf gives the digest by which certificates find a credential.
func nameOf(c *trusteeapi.Credential) string {
	switch c.Kind {
	case trusteeapi.CredentialCertificate, trusteeapi.CredentialOIDC:
		return digest(c.Kind, c.Subject)
	}
	return ""
}

// digest has texts one way only: none of them has a NUL.
func digest(texts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// List gives all credentials.
func (s *Store) List(ctx context.Context) (out []trusteeapi.Credential, err error) {
	out = []trusteeapi.Credential{}
	err = s.store.View(ctx, func(tx store.Tx) error {
		return each(tx, func(c *trusteeapi.Credential) { out = append(out, *c) })
	})
	return out, err
}

func each(tx store.Tx, fn func(*trusteeapi.Credential)) error {
	var ids []string
	if err := tx.Scan(bucket, "", func(id string, _ []byte) (bool, error) { ids = append(ids, id); return true, nil }); err != nil {
		return err
	}
	for _, id := range ids {
		c, err := get(tx, id)
		if err != nil {
			return err
		}
		fn(c)
	}
	return nil
}

// ErrLast says that a credential is the last that keeps the trustee administrable.
var ErrLast = fmt.Errorf("the last administrator's key that does not expire stays, or nobody could administrate: %w", tenant.ErrConflict)

func remove(tx store.Tx, c *trusteeapi.Credential) error {
	if n := nameOf(c); n != "" {
		if err := tx.Delete(names, n+"/"+c.ID); err != nil {
			return err
		}
	}
	return tx.Delete(bucket, c.ID)
}

func notLast(tx store.Tx, c *trusteeapi.Credential) error {
	if !lasting(c) {
		return nil
	}
	n := 0
	if err := each(tx, func(c *trusteeapi.Credential) {
		if lasting(c) {
			n++
		}
	}); err != nil {
		return err
	}
	if n < 2 {
		return ErrLast
	}
	return nil
}

// lasting reports an administrator's key that does not expire.
func lasting(c *trusteeapi.Credential) bool {
	for _, g := range c.Grants {
		if g.Role == trusteeapi.RoleAdmin && c.Kind == trusteeapi.CredentialKey && c.Expires.IsZero() {
			return true
		}
	}
	return false
}

// Sweep removes credentials that expired some time ago and gives their number.
func (s *Store) Sweep(ctx context.Context) (n int, err error) {
	const keepFor = 30 * 24 * time.Hour // to be looked at
	before := s.now().Add(-keepFor)
	old := func(c *trusteeapi.Credential) bool { return !c.Expires.IsZero() && c.Expires.Before(before) }
	var have bool
	if err := s.store.View(ctx, func(tx store.Tx) error {
		return each(tx, func(c *trusteeapi.Credential) { have = have || old(c) })
	}); err != nil || !have {
		return 0, err
	}
	err = s.store.Update(ctx, func(tx store.Tx) error {
		n = 0
		var gone []*trusteeapi.Credential
		if err := each(tx, func(c *trusteeapi.Credential) {
			if old(c) {
				gone = append(gone, c)
			}
		}); err != nil {
			return err
		}
		for _, c := range gone {
			if err := remove(tx, c); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}
