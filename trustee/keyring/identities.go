package keyring

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
)

// Rotation of authorities of identities.
const (
	// IdentityLead is how long a new authority is in the bundle before it signs. It is
	// three times what the bundle tells its readers to wait at most.
	IdentityLead = 15 * time.Minute
	// IdentityAge is the age at which an authority is replaced without being told.
	IdentityAge = 30 * 24 * time.Hour

	identityLife   = 90 * 24 * time.Hour // of the certificate, should replacing it fail for a while
	identityMargin = 5 * time.Minute     // by which clocks may differ
	maxIdentities  = 8
	identities     = "identity/" // and the namespace
)

// ErrTooManyAuthorities says that authorities are rotated faster than what they have
// signed expires.
var ErrTooManyAuthorities = fmt.Errorf("%d authorities of identities count still: rotate again when what the oldest has signed has expired", maxIdentities)

// Identities are the authorities that sign a namespace's SPIFFE identities: each has a
// certificate authority for X.509 documents and a key of its own for JWTs.
//
// Invariants: an authority is in the bundle for IdentityLead before it signs, and for as
// long as anything that it has signed counts; its certificate is constrained to the
// namespace's trust domain; what is read from the store is read at every use, so that
// replicas agree.
type Identities struct {
	store store.Store
	kek   KEK
	now   func() time.Time
	// exists refuses a namespace that nobody made, or that was deleted.
	exists func(tx store.Tx, ns string) error

	mu    sync.Mutex
	known map[string]*identitySet // by namespace, as it was opened last
}

// NewIdentities makes Identities. exists reports that there is no such namespace.
func NewIdentities(s store.Store, kek KEK, now func() time.Time, exists func(tx store.Tx, ns string) error) *Identities {
	return &Identities{store: s, kek: kek, now: now, exists: exists, known: map[string]*identitySet{}}
}

type identityDoc struct {
	Domain      string             `json:"domain"`
	Authorities []identityKeyedDoc `json:"authorities"`
}

type identityKeyedDoc struct {
	CAKey  []byte    `json:"ca_key"` // PKCS #8, as JWTKey
	Cert   []byte    `json:"cert"`
	JWTKey []byte    `json:"jwt_key"`
	Made   time.Time `json:"made"`
	Signs  time.Time `json:"signs"`
	Until  time.Time `json:"until,omitzero"`
}

type identitySet struct {
	raw    []byte // as it lies in the store
	domain string
	all    []IdentitySigner
}

// IdentitySigner is an authority with its keys.
type IdentitySigner struct {
	trusteeapi.IdentityAuthority
	CA  *x509.Certificate
	Key crypto.Signer // of CA
	JWT crypto.Signer
}

func (a *IdentitySigner) counts(now time.Time) bool { return a.Until.IsZero() || now.Before(a.Until) }

// Signer gives the authority that signs now for a trust domain. The first one is made,
// and signs at once: nobody has a bundle without it.
func (i *Identities) Signer(ctx context.Context, ns, domain string) (*IdentitySigner, error) {
	s, err := i.set(ctx, ns, domain)
	if err != nil {
		return nil, err
	}
	now := i.now()
	for _, a := range slices.Backward(s.all) {
		if a.counts(now) && !now.Before(a.Signs) && now.Before(a.CA.NotAfter) {
			return &a, nil
		}
	}
	return nil, fmt.Errorf("keyring: no authority of identities signs now in namespace %s", ns)
}

// Bundle gives the authorities that count, the oldest first.
func (i *Identities) Bundle(ctx context.Context, ns, domain string) (out []IdentitySigner, err error) {
	s, err := i.set(ctx, ns, domain)
	if err != nil {
		return nil, err
	}
	for _, a := range s.all {
		if a.counts(i.now()) {
			out = append(out, a)
		}
	}
	return out, nil
}

// Rotate makes a new authority. What older ones have signed counts until it expires;
// compromised: no longer than now, and the new one signs at once.
func (i *Identities) Rotate(ctx context.Context, ns, domain string, compromised bool) (*trusteeapi.IdentityAuthority, error) {
	for range 8 {
		before, err := i.set(ctx, ns, domain)
		if err != nil {
			return nil, err
		}
		out, done, err := i.rotate(ctx, ns, before, compromised)
		if err != nil || done {
			return out, err
		}
	}
	return nil, fmt.Errorf("%w: authorities of identities change all the time", store.ErrUnavailable)
}

func (i *Identities) rotate(ctx context.Context, ns string, before *identitySet, compromised bool) (*trusteeapi.IdentityAuthority, bool, error) {
	d, err := i.decrypt(ctx, ns, before.raw)
	if err != nil {
		return nil, false, err
	}
	now := i.now().UTC()
	next, err := newAuthority(before.domain, now)
	if err != nil {
		return nil, false, err
	}
	if compromised {
		d.Authorities = nil
	} else {
		next.Signs = now.Add(IdentityLead)
		d.Authorities = slices.DeleteFunc(d.Authorities, func(a identityKeyedDoc) bool { return !a.Until.IsZero() && !now.Before(a.Until) })
		for n := range d.Authorities {
			if d.Authorities[n].Until.IsZero() {
				d.Authorities[n].Until = next.Signs.Add(trusteeapi.MaxIdentityLife + identityMargin)
			}
		}
	}
	if len(d.Authorities) >= maxIdentities {
		return nil, false, ErrTooManyAuthorities
	}
	d.Authorities = append(d.Authorities, *next)
	done, err := i.put(ctx, ns, before.raw, d)
	if err != nil || !done {
		return nil, false, err
	}
	a, err := next.open()
	if err != nil {
		return nil, false, err
	}
	return &a.IdentityAuthority, true, nil
}

// Renew rotates what has reached its age, of all namespaces; rotated is told before.
func (i *Identities) Renew(ctx context.Context, rotated func(ns string) error) error {
	var all []string
	if err := i.store.View(ctx, func(tx store.Tx) error {
		all = nil
		return tx.Scan(bucket, identities, func(k string, _ []byte) (bool, error) {
			ns, ok := strings.CutPrefix(k, identities)
			if ok {
				all = append(all, ns)
			}
			return ok, nil
		})
	}); err != nil {
		return err
	}
	for _, ns := range all {
		s, err := i.stored(ctx, ns)
		if err != nil {
			return err
		}
		if s == nil || i.now().Sub(s.all[len(s.all)-1].Made) < IdentityAge {
			continue
		}
		if err := rotated(ns); err != nil {
			return err
		}
		// Once, of what was found old: where another replica was first, it is done.
		if _, _, err := i.rotate(ctx, ns, s, false); err != nil {
			return err
		}
	}
	return nil
}

// Forget deletes the authorities of a namespace that was deleted.
func (i *Identities) Forget(ctx context.Context, ns string) error {
	i.mu.Lock()
	delete(i.known, ns)
	i.mu.Unlock()
	return i.store.Update(ctx, func(tx store.Tx) error {
		if i.exists(tx, ns) == nil {
			return fmt.Errorf("keyring: namespace %s is there", ns)
		}
		return tx.Delete(bucket, identities+ns)
	})
}

// set gives a namespace's authorities and makes the first one.
func (i *Identities) set(ctx context.Context, ns, domain string) (*identitySet, error) {
	if domain == "" {
		return nil, errors.New("keyring: identities without a trust domain")
	}
	s, err := i.stored(ctx, ns)
	if err == nil && s == nil {
		var first *identityKeyedDoc
		if first, err = newAuthority(domain, i.now().UTC()); err != nil {
			return nil, err
		}
		if _, err = i.put(ctx, ns, nil, &identityDoc{Domain: domain, Authorities: []identityKeyedDoc{*first}}); err == nil {
			s, err = i.stored(ctx, ns)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case s == nil || s.domain != domain:
		return nil, fmt.Errorf("keyring: the authorities of namespace %s are not those of trust domain %s", ns, domain)
	}
	return s, nil
}

// stored reads what the store has; nil: nothing. Only what has changed is decrypted.
func (i *Identities) stored(ctx context.Context, ns string) (*identitySet, error) {
	var raw []byte
	if err := i.store.View(ctx, func(tx store.Tx) error {
		b, err := tx.Get(bucket, identities+ns)
		raw = slices.Clone(b)
		return err
	}); err != nil || raw == nil {
		return nil, err
	}
	i.mu.Lock()
	have := i.known[ns]
	i.mu.Unlock()
	if have != nil && bytes.Equal(have.raw, raw) {
		return have, nil
	}
	d, err := i.decrypt(ctx, ns, raw)
	if err != nil {
		return nil, err
	}
	s := &identitySet{raw: raw, domain: d.Domain}
	for _, a := range d.Authorities {
		o, err := a.open()
		if err != nil {
			return nil, fmt.Errorf("keyring: identities of %s: %w", ns, err)
		}
		s.all = append(s.all, *o)
	}
	i.mu.Lock()
	i.known[ns] = s
	i.mu.Unlock()
	return s, nil
}

func (i *Identities) decrypt(ctx context.Context, ns string, raw []byte) (*identityDoc, error) {
	d := new(identityDoc)
	plain, err := Decrypt(ctx, i.kek, bucket+"/"+identities+ns, raw)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	if err := json.Unmarshal(plain, d); err != nil {
		return nil, fmt.Errorf("keyring: identities of %s: %w", ns, err)
	}
	if len(d.Authorities) == 0 || d.Domain == "" {
		return nil, fmt.Errorf("keyring: identities of %s: none", ns)
	}
	return d, nil
}

// put replaces what was read before; false: it was no longer that.
func (i *Identities) put(ctx context.Context, ns string, before []byte, d *identityDoc) (done bool, err error) {
	plain, err := json.Marshal(d)
	if err != nil {
		return false, fmt.Errorf("keyring: identities of %s: %w", ns, err)
	}
	defer clear(plain)
	box, err := Encrypt(ctx, i.kek, bucket+"/"+identities+ns, plain)
	if err != nil {
		return false, err
	}
	err = i.store.Update(ctx, func(tx store.Tx) error {
		if err := i.exists(tx, ns); err != nil {
			return err
		}
		have, err := tx.Get(bucket, identities+ns)
		if err != nil {
			return err
		}
		if done = bytes.Equal(have, before); !done {
			return nil
		}
		return tx.Put(bucket, identities+ns, box)
	})
	return done, err
}

func newAuthority(domain string, now time.Time) (*identityKeyedDoc, error) {
	d := &identityKeyedDoc{Made: now, Signs: now}
	ca, err := newKey(&d.CAKey)
	if err == nil {
		_, err = newKey(&d.JWTKey)
	}
	if err == nil {
		d.Cert, err = signDomain(ca, domain, now)
	}
	if err != nil {
		return nil, fmt.Errorf("making an authority of identities: %w", err)
	}
	return d, nil
}

// signDomain makes the certificate of an authority (X509-SVID, section 3.1 for its URI;
// its constraint keeps it to its trust domain where a verifier heeds constraints).
func signDomain(key crypto.Signer, domain string, now time.Time) ([]byte, error) {
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Coffer identities of " + clipName(domain)}, URIs: []*url.URL{{Scheme: "spiffe", Host: domain}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(identityLife), PermittedURIDomains: []string{domain},
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
}

// clipName keeps a common name below the 64 characters that it may have.
func clipName(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most]
	}
	return s
}

func (d *identityKeyedDoc) open() (*IdentitySigner, error) {
	var a IdentitySigner
	var err error
	if a.Key, err = parseKey(d.CAKey); err != nil {
		return nil, fmt.Errorf("authority's key: %w", err)
	}
	if a.JWT, err = parseKey(d.JWTKey); err != nil {
		return nil, fmt.Errorf("authority's key for JWTs: %w", err)
	}
	if a.CA, err = x509.ParseCertificate(d.Cert); err != nil {
		return nil, fmt.Errorf("authority's certificate: %w", err)
	}
	sum := sha256.Sum256(d.Cert)
	a.IdentityAuthority = trusteeapi.IdentityAuthority{ID: hex.EncodeToString(sum[:]), Made: d.Made, Signs: d.Signs, Until: d.Until}
	return &a, nil
}
