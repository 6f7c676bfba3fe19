package keyring

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/seal"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
)

// Rotation of token keys.
const (
	// TokenKeyLead is how long a new key is in the key set before it signs. The
	// endpoint lets nobody keep the set for longer than half of it.
	TokenKeyLead = 2 * time.Minute
	// TokenKeyAge is the age at which a key is replaced without being told.
	TokenKeyAge = 90 * 24 * time.Hour
	// TokenLife is the longest life of a token, with what clocks may differ.
	TokenLife = 10 * time.Minute

	maxTokenKeys = 8
	tokens       = "token/" // and the namespace
	lookAgain    = time.Second
)

// ErrTooManyTokenKeys says that keys are rotated faster than tokens expire.
var ErrTooManyTokenKeys = fmt.Errorf("%d keys of attestation results count still: rotate again when tokens of the oldest have expired, or as compromised", maxTokenKeys)

// TokenKeys are the keys that sign attestation results, of each namespace its own.
// The default namespace begins with the key of Keys, every other one with a key
// that is made at its first use.
//
// Invariants: a key that another replica has made is known here before it signs
// there, or at the latest when its first token arrives; a key that counts no more
// counts nowhere as soon as Refresh has run, and for what a gate releases, which asks
// Current, at once.
type TokenKeys struct {
	store store.Store
	kek   KEK
	keys  *Keys
	now   func() time.Time
	// exists refuses a namespace that nobody made: nothing is kept for it.
	exists func(tx store.Tx, ns string) error

	mu     sync.Mutex
	sets   map[string]*tokenSet
	looked map[string]time.Time
}

// NewTokenKeys makes TokenKeys under the CA of k. exists reports that there is no
// such namespace.
func NewTokenKeys(s store.Store, kek KEK, k *Keys, now func() time.Time, exists func(tx store.Tx, ns string) error) *TokenKeys {
	return &TokenKeys{store: s, kek: kek, keys: k, now: now, exists: exists, sets: map[string]*tokenSet{}, looked: map[string]time.Time{}}
}

// tokenDoc is a namespace's keys at rest, sealed; the oldest first.
type tokenDoc struct {
	Keys []tokenKeyDoc `json:"keys"`
}

type tokenKeyDoc struct {
	Key   []byte    `json:"key"` // PKCS #8
	Cert  []byte    `json:"cert"`
	Made  time.Time `json:"made"`
	Signs time.Time `json:"signs"`
	Until time.Time `json:"until,omitzero"`
}

// tokenSet is a tokenDoc that was opened.
type tokenSet struct {
	raw  []byte // as it lies in the store; nil: nothing does
	keys []tokenKey
}

type tokenKey struct {
	trusteeapi.TokenKey
	signer *ear.Signer
}

func (k *tokenKey) counts(now time.Time) bool { return k.Until.IsZero() || now.Before(k.Until) }

// signer gives the newest key that has begun to sign.
func (s *tokenSet) signer(now time.Time) (*ear.Signer, error) {
	for _, k := range slices.Backward(s.keys) {
		if k.counts(now) && !now.Before(k.Signs) {
			return k.signer, nil
		}
	}
	return nil, errors.New("keyring: no token key signs now")
}

// Sign signs a namespace's attestation result.
func (t *TokenKeys) Sign(ctx context.Context, ns string, c *ear.Claims) (string, error) {
	set, err := t.set(ctx, ns)
	if err != nil {
		return "", err
	}
	k, err := set.signer(t.now())
	if err != nil {
		return "", err
	}
	return k.Sign(c)
}

// Verify checks a token with the namespace's keys, as ear.Verify does. A token that
// no key here has signed may be of a key that another replica has made.
func (t *TokenKeys) Verify(ctx context.Context, ns, token string) (*ear.Claims, error) {
	set, err := t.set(ctx, ns)
	if err != nil {
		return nil, err
	}
	now := t.now()
	c, err := ear.Verify(token, now, set.public(now)...)
	if err == nil || errors.Is(err, ear.ErrExpired) || !t.mayLook(ns, now) {
		return c, err
	}
	again, lerr := t.read(ctx, ns)
	if lerr != nil {
		return nil, lerr
	}
	if bytes.Equal(again.raw, set.raw) {
		return nil, err
	}
	return ear.Verify(token, now, again.public(now)...)
}

// Current reports whether what Verify knows of a namespace's keys is what the store
// holds. Where it is not, Reread tells, and the token is to be verified anew.
func (t *TokenKeys) Current(tx store.Tx, ns string) (bool, error) {
	b, err := tx.Get(bucket, tokens+ns)
	if err != nil {
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sets[ns]
	return s != nil && bytes.Equal(s.raw, b), nil
}

// Reread learns a namespace's keys from the store.
func (t *TokenKeys) Reread(ctx context.Context, ns string) error {
	_, err := t.read(ctx, ns)
	return err
}

// mayLook bounds what forged tokens cost the store.
func (t *TokenKeys) mayLook(ns string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := now.Sub(t.looked[ns]); d >= 0 && d < lookAgain {
		return false
	}
	t.looked[ns] = now
	return true
}

func (s *tokenSet) public(now time.Time) (out []crypto.PublicKey) {
	for _, k := range slices.Backward(s.keys) {
		if k.counts(now) {
			out = append(out, k.signer.Public())
		}
	}
	return out
}

// JWKS gives the namespace's key set: keys that count, and those that will sign.
func (t *TokenKeys) JWKS(ctx context.Context, ns string) ([]byte, error) {
	set, err := t.set(ctx, ns)
	if err != nil {
		return nil, err
	}
	var out []*ear.JWK
	for _, k := range set.keys {
		if k.counts(t.now()) {
			out = append(out, k.signer.JWK())
		}
	}
	return ear.MarshalJWKS(out...)
}

// List gives the namespace's keys that count, the oldest first.
func (t *TokenKeys) List(ctx context.Context, ns string) ([]trusteeapi.TokenKey, error) {
	set, err := t.read(ctx, ns)
	if err != nil {
		return nil, err
	}
	out := []trusteeapi.TokenKey{}
	for _, k := range set.keys {
		if k.counts(t.now()) {
			out = append(out, k.TokenKey)
		}
	}
	return out, nil
}

// set gives the namespace's keys as they were read last.
func (t *TokenKeys) set(ctx context.Context, ns string) (*tokenSet, error) {
	t.mu.Lock()
	s := t.sets[ns]
	t.mu.Unlock()
	if s != nil {
		return s, nil
	}
	return t.read(ctx, ns)
}

// read gives the keys from the store and makes the first one.
func (t *TokenKeys) read(ctx context.Context, ns string) (*tokenSet, error) {
	for {
		t.mu.Lock()
		before := t.sets[ns]
		t.mu.Unlock()
		s, err := t.stored(ctx, ns)
		if err != nil {
			return nil, err
		}
		if len(s.keys) == 0 {
			if s, err = t.first(ctx, ns); err != nil {
				return nil, err
			}
		}
		t.mu.Lock()
		now := t.sets[ns]
		good := now == before || now != nil && bytes.Equal(now.raw, s.raw)
		if good {
			t.sets[ns] = s
		}
		t.mu.Unlock()
		if good {
			return s, nil
		}
		// Another has read something else meanwhile, perhaps what is newer than this.
	}
}

func (t *TokenKeys) stored(ctx context.Context, ns string) (*tokenSet, error) {
	s := new(tokenSet)
	if err := t.store.View(ctx, func(tx store.Tx) error {
		b, err := tx.Get(bucket, tokens+ns)
		s.raw = slices.Clone(b)
		return err
	}); err != nil || s.raw == nil {
		return s, err
	}
	d, err := t.decrypt(ctx, ns, s.raw)
	if err != nil {
		return nil, err
	}
	for _, k := range d.Keys {
		o, err := t.open(&k)
		if err != nil {
			return nil, err
		}
		s.keys = append(s.keys, *o)
	}
	return s, nil
}

func (t *TokenKeys) decrypt(ctx context.Context, ns string, raw []byte) (*tokenDoc, error) {
	plain, err := Decrypt(ctx, t.kek, bucket+"/"+tokens+ns, raw)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	d := new(tokenDoc)
	if err := json.Unmarshal(plain, d); err != nil {
		return nil, fmt.Errorf("keyring: token keys of %s: %w", ns, err)
	}
	if len(d.Keys) == 0 {
		return nil, fmt.Errorf("keyring: token keys of %s: none", ns)
	}
	return d, nil
}

func (t *TokenKeys) open(d *tokenKeyDoc) (*tokenKey, error) {
	key, err := parseKey(d.Key)
	if err != nil {
		return nil, fmt.Errorf("keyring: token key: %w", err)
	}
	leaf, err := x509.ParseCertificate(d.Cert)
	if err != nil {
		return nil, fmt.Errorf("keyring: token certificate: %w", err)
	}
	signer, err := ear.NewSigner(key, []*x509.Certificate{leaf, t.keys.CA})
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	id, err := seal.KeyID(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return &tokenKey{trusteeapi.TokenKey{ID: id, Made: d.Made, Signs: d.Signs, Until: d.Until}, signer}, nil
}

// begin is what a namespace begins with.
func (t *TokenKeys) begin(ns string) (*tokenDoc, error) {
	if ns == trusteeapi.DefaultNamespace {
		made := t.keys.ear.made
		return &tokenDoc{[]tokenKeyDoc{{Key: t.keys.ear.key, Cert: t.keys.ear.cert, Made: made, Signs: made}}}, nil
	}
	k, err := t.fresh(t.now().UTC())
	if err != nil {
		return nil, err
	}
	return &tokenDoc{[]tokenKeyDoc{*k}}, nil
}

func (t *TokenKeys) fresh(now time.Time) (*tokenKeyDoc, error) {
	d := &tokenKeyDoc{Made: now, Signs: now}
	k, err := newKey(&d.Key)
	if err == nil {
		d.Cert, err = signEAR(t.keys.CA, t.keys.caKey, &k.PublicKey, now)
	}
	if err != nil {
		return nil, fmt.Errorf("making token key: %w", err)
	}
	return d, nil
}

// first makes a namespace's first key; of two who make it the first one's stays.
func (t *TokenKeys) first(ctx context.Context, ns string) (*tokenSet, error) {
	d, err := t.begin(ns)
	if err != nil {
		return nil, err
	}
	box, err := t.encrypt(ctx, ns, d)
	if err != nil {
		return nil, err
	}
	if err := t.store.Update(ctx, func(tx store.Tx) error {
		if err := t.exists(tx, ns); err != nil {
			return err
		}
		if have, err := tx.Get(bucket, tokens+ns); err != nil || have != nil {
			return err
		}
		return tx.Put(bucket, tokens+ns, box)
	}); err != nil {
		return nil, err
	}
	return t.stored(ctx, ns)
}

func (t *TokenKeys) encrypt(ctx context.Context, ns string, d *tokenDoc) ([]byte, error) {
	plain, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("keyring: token keys of %s: %w", ns, err)
	}
	defer clear(plain)
	return Encrypt(ctx, t.kek, bucket+"/"+tokens+ns, plain)
}

// Rotate makes a new key. What older ones have signed counts until it expires.
func (t *TokenKeys) Rotate(ctx context.Context, ns string, o trusteeapi.TokenKeyRotation) (*trusteeapi.TokenKey, error) {
	for {
		before, err := t.read(ctx, ns)
		if err != nil {
			return nil, err
		}
		k, done, err := t.rotate(ctx, ns, before, o)
		if err != nil || done {
			return k, err
		}
	}
}

// rotate replaces what was read before; false: it was no longer that.
func (t *TokenKeys) rotate(ctx context.Context, ns string, before *tokenSet, o trusteeapi.TokenKeyRotation) (*trusteeapi.TokenKey, bool, error) {
	d, err := t.decrypt(ctx, ns, before.raw)
	if err != nil {
		return nil, false, err
	}
	now := t.now().UTC()
	next, err := t.fresh(now)
	if err != nil {
		return nil, false, err
	}
	if o.Compromised {
		d.Keys = nil
	} else {
		next.Signs = now.Add(TokenKeyLead)
		d.Keys = slices.DeleteFunc(d.Keys, func(k tokenKeyDoc) bool { return !k.Until.IsZero() && !now.Before(k.Until) })
		for i := range d.Keys {
			if d.Keys[i].Until.IsZero() {
				d.Keys[i].Until = next.Signs.Add(TokenLife)
			}
		}
	}
	if len(d.Keys) >= maxTokenKeys {
		return nil, false, ErrTooManyTokenKeys
	}
	d.Keys = append(d.Keys, *next)
	box, err := t.encrypt(ctx, ns, d)
	if err != nil {
		return nil, false, err
	}
	done := false
	if err := t.store.Update(ctx, func(tx store.Tx) error {
		have, err := tx.Get(bucket, tokens+ns)
		if err != nil {
			return err
		}
		if done = bytes.Equal(have, before.raw); !done {
			return nil
		}
		return tx.Put(bucket, tokens+ns, box)
	}); err != nil || !done {
		return nil, false, err
	}
	if _, err := t.read(ctx, ns); err != nil {
		// It is done all the same, and what was known before must not go on signing.
		t.mu.Lock()
		delete(t.sets, ns)
		t.mu.Unlock()
	}
	// Not the newest of what was read: another replica may have rotated since.
	k, err := t.open(next)
	if err != nil {
		return nil, false, err
	}
	return &k.TokenKey, true, nil
}

// Forget deletes the keys of a namespace that was deleted.
func (t *TokenKeys) Forget(ctx context.Context, ns string) error {
	err := t.store.Update(ctx, func(tx store.Tx) error {
		if t.exists(tx, ns) == nil {
			return nil // it lives
		}
		return tx.Delete(bucket, tokens+ns)
	})
	if err == nil {
		t.mu.Lock()
		delete(t.sets, ns)
		t.mu.Unlock()
	}
	return err
}

// Refresh learns what other replicas have changed.
func (t *TokenKeys) Refresh(ctx context.Context) error {
	t.mu.Lock()
	known := make(map[string]*tokenSet, len(t.sets))
	for ns, s := range t.sets {
		known[ns] = s
	}
	t.mu.Unlock()
	var changed, gone []string
	if err := t.store.View(ctx, func(tx store.Tx) error {
		changed, gone = nil, nil
		for ns, s := range known {
			b, err := tx.Get(bucket, tokens+ns)
			if err != nil {
				return err
			}
			if b == nil {
				gone = append(gone, ns)
			} else if !bytes.Equal(b, s.raw) {
				changed = append(changed, ns)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	t.mu.Lock()
	for _, ns := range gone { // with its namespace
		delete(t.sets, ns)
	}
	t.mu.Unlock()
	for _, ns := range changed {
		if _, err := t.read(ctx, ns); err != nil {
			return err
		}
	}
	return nil
}

// Renew rotates the keys that have reached their age, of all namespaces. rotated
// is told of each, before.
func (t *TokenKeys) Renew(ctx context.Context, rotated func(ns string) error) error {
	var all []string
	if err := t.store.View(ctx, func(tx store.Tx) error {
		all = nil
		return tx.Scan(bucket, tokens, func(k string, _ []byte) (bool, error) {
			ns, ok := strings.CutPrefix(k, tokens)
			if ok {
				all = append(all, ns)
			}
			return ok, nil
		})
	}); err != nil {
		return err
	}
	for _, ns := range all {
		s, err := t.read(ctx, ns)
		if err != nil {
			return err
		}
		if t.now().Sub(s.keys[len(s.keys)-1].Made) < TokenKeyAge {
			continue
		}
		if err := rotated(ns); err != nil {
			return err
		}
		// Once, of what was found old: where another replica was first, it is done.
		if _, _, err := t.rotate(ctx, ns, s, trusteeapi.TokenKeyRotation{}); err != nil {
			return err
		}
	}
	return nil
}
