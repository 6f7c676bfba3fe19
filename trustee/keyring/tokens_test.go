package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
)

var errNowhere = errors.New("no such namespace")

// replicas are two trustees with one store and one clock.
type replicas struct {
	t     *testing.T
	store store.Store
	mu    sync.Mutex
	at    time.Time
	a, b  *TokenKeys
}

func (r *replicas) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

func (r *replicas) advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = r.at.Add(d)
}

func newReplicas(t *testing.T) *replicas {
	t.Helper()
	dir := t.TempDir()
	kek, err := CreateFileKEK(filepath.Join(dir, "envelope.key"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := bolt.Open(filepath.Join(dir, "db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r := &replicas{t: t, store: s, at: time.Now()}
	exists := func(_ store.Tx, ns string) error {
		if ns == "nowhere" {
			return errNowhere
		}
		return nil
	}
	for _, k := range []**TokenKeys{&r.a, &r.b} {
		keys, err := Load(t.Context(), s, kek, r.at)
		if err != nil {
			t.Fatal(err)
		}
		*k = NewTokenKeys(s, kek, keys, r.now, exists)
	}
	return r
}

func (r *replicas) sign(k *TokenKeys, ns string) string {
	r.t.Helper()
	now := r.now()
	tok, err := k.Sign(r.t.Context(), ns, &ear.Claims{
		Profile: ear.Profile, IssuedAt: now.Unix(), Expires: now.Add(5 * time.Minute).Unix(), Issuer: "trustee", ID: "id", Audience: "a",
		VerifierID: ear.VerifierID{Developer: "d", Build: "b"}, Submods: map[string]ear.Submod{"cpu0": {Status: ear.Affirming}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return tok
}

func (r *replicas) verifies(k *TokenKeys, ns, token string, want bool) {
	r.t.Helper()
	if _, err := k.Verify(r.t.Context(), ns, token); (err == nil) != want {
		r.t.Errorf("verifying in %s: %v, want success: %t", ns, err, want)
	}
}

func (r *replicas) rotate(k *TokenKeys, ns string, o trusteeapi.TokenKeyRotation) *trusteeapi.TokenKey {
	r.t.Helper()
	out, err := k.Rotate(r.t.Context(), ns, o)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *replicas) published(k *TokenKeys, ns string) int {
	r.t.Helper()
	b, err := k.JWKS(r.t.Context(), ns)
	if err != nil {
		r.t.Fatal(err)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		r.t.Fatal(err)
	}
	return len(set.Keys)
}

func TestNamespacesHaveTheirOwnTokenKeys(t *testing.T) {
	r := newReplicas(t)
	one := r.sign(r.a, "one")
	r.verifies(r.b, "one", one, true)
	r.verifies(r.b, "two", one, false)
	r.verifies(r.b, trusteeapi.DefaultNamespace, one, false)
	r.verifies(r.a, "one", r.sign(r.b, trusteeapi.DefaultNamespace), false)
	for _, f := range []func(context.Context, string) error{
		func(ctx context.Context, ns string) error { _, err := r.a.Verify(ctx, ns, one); return err },
		func(ctx context.Context, ns string) error { _, err := r.a.JWKS(ctx, ns); return err },
		func(ctx context.Context, ns string) error { _, err := r.a.List(ctx, ns); return err },
		func(ctx context.Context, ns string) error {
			_, err := r.a.Rotate(ctx, ns, trusteeapi.TokenKeyRotation{})
			return err
		},
	} {
		if err := f(t.Context(), "nowhere"); !errors.Is(err, errNowhere) {
			t.Errorf("a namespace that nobody made: %v", err)
		}
	}
	if err := r.store.View(t.Context(), func(tx store.Tx) error {
		if v, err := tx.Get(bucket, tokens+"nowhere"); err != nil || v != nil {
			t.Errorf("a key was kept for it: %v", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestTokenKeysRotateWithOverlap(t *testing.T) {
	for _, ns := range []string{trusteeapi.DefaultNamespace, "one"} {
		t.Run(ns, func(t *testing.T) {
			r := newReplicas(t)
			before := r.sign(r.a, ns)
			next := r.rotate(r.b, ns, trusteeapi.TokenKeyRotation{})
			if n := r.published(r.b, ns); n != 2 || !next.Until.IsZero() || !next.Signs.After(r.now()) {
				t.Errorf("%d keys in the set, the new one is %+v", n, next)
			}
			// The other replica has not heard of it, and the new one does not sign yet.
			during := r.sign(r.b, ns)
			r.verifies(r.a, ns, during, true)
			if n := r.published(r.a, ns); n != 1 {
				t.Errorf("%d keys known without having looked", n)
			}
			r.advance(TokenKeyLead)
			after := r.sign(r.b, ns)
			r.verifies(r.a, ns, after, true) // it looks when the token comes
			r.verifies(r.b, ns, during, true)
			r.verifies(r.b, ns, before, true)
			r.advance(TokenLife)
			if n := r.published(r.a, ns); n != 1 {
				t.Errorf("%d keys in the set when the old one's tokens have expired", n)
			}
			if l, err := r.a.List(t.Context(), ns); err != nil || len(l) != 1 || l[0].ID != next.ID {
				t.Errorf("%+v, %v; want %s alone", l, err, next.ID)
			}
			r.sign(r.a, ns)
		})
	}
}

func TestCompromisedTokenKeyCountsNoMore(t *testing.T) {
	r := newReplicas(t)
	old := r.sign(r.a, "one")
	r.verifies(r.b, "one", old, true)
	r.rotate(r.a, "one", trusteeapi.TokenKeyRotation{Compromised: true})
	r.verifies(r.a, "one", old, false)
	if err := r.b.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.verifies(r.b, "one", old, false)
	if n := r.published(r.b, "one"); n != 1 {
		t.Errorf("%d keys in the set", n)
	}
	r.verifies(r.b, "one", r.sign(r.a, "one"), true)
}

func TestTokenKeysAreBounded(t *testing.T) {
	r := newReplicas(t)
	for range maxTokenKeys - 1 {
		r.rotate(r.a, "one", trusteeapi.TokenKeyRotation{})
	}
	if _, err := r.a.Rotate(t.Context(), "one", trusteeapi.TokenKeyRotation{}); !errors.Is(err, ErrTooManyTokenKeys) {
		t.Errorf("one more: %v", err)
	}
	r.verifies(r.b, "one", r.sign(r.a, "one"), true) // the first one signs still
	r.advance(TokenKeyLead + TokenLife)
	r.rotate(r.a, "one", trusteeapi.TokenKeyRotation{})
}

func TestTokenKeysOfTwoRotationsAtOnceBothStay(t *testing.T) {
	r := newReplicas(t)
	r.sign(r.a, "one")
	ids := make(chan string, 2)
	for _, k := range []*TokenKeys{r.a, r.b} {
		go func() {
			out, err := k.Rotate(context.WithoutCancel(t.Context()), "one", trusteeapi.TokenKeyRotation{})
			if err != nil {
				t.Error(err)
				out = new(trusteeapi.TokenKey)
			}
			ids <- out.ID
		}()
	}
	want := map[string]bool{<-ids: true, <-ids: true}
	l, err := r.a.List(t.Context(), "one")
	if err != nil || len(l) != 3 || !want[l[1].ID] || !want[l[2].ID] {
		t.Errorf("%+v, %v; want %v after the first", l, err, want)
	}
}

func TestOldTokenKeysAreRenewed(t *testing.T) {
	r := newReplicas(t)
	r.sign(r.a, "one")
	r.sign(r.a, trusteeapi.DefaultNamespace)
	renew := func(want int) {
		t.Helper()
		n := 0
		for _, k := range []*TokenKeys{r.a, r.b} {
			if err := k.Renew(t.Context(), func(string) error { n++; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if n != want {
			t.Errorf("%d keys renewed, want %d", n, want)
		}
	}
	renew(0)
	r.advance(TokenKeyAge)
	renew(2)
	if err := r.a.Renew(t.Context(), func(string) error { t.Error("renewed again"); return nil }); err != nil {
		t.Fatal(err)
	}
	r.advance(TokenKeyAge)
	refused := errors.New("no audit record")
	if err := r.a.Renew(t.Context(), func(string) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("renewed without a record: %v", err)
	}
	if l, err := r.a.List(t.Context(), "one"); err != nil || len(l) != 1 {
		t.Errorf("%+v, %v", l, err)
	}
}

// TestTokenKeysAreRenewedOnce has two replicas find the same key old.
func TestTokenKeysAreRenewedOnce(t *testing.T) {
	r := newReplicas(t)
	r.sign(r.a, "one")
	r.advance(TokenKeyAge)
	if err := r.a.Renew(t.Context(), func(string) error {
		return r.b.Renew(t.Context(), func(string) error { return nil })
	}); err != nil {
		t.Fatal(err)
	}
	if l, err := r.a.List(t.Context(), "one"); err != nil || len(l) != 2 {
		t.Errorf("%d keys, %v; want the old one and one new", len(l), err)
	}
}

// stalled is a store whose next view's outcome is held back.
type stalled struct {
	store.Store
	hold func() // called after the next view, once
}

func (s *stalled) View(ctx context.Context, fn func(store.Tx) error) error {
	hold := s.hold
	s.hold = nil
	err := s.Store.View(ctx, fn)
	if hold != nil {
		hold()
	}
	return err
}

// TestTokenKeysDoNotGoBack has the keys be rotated while somebody else has read them and
// not yet kept them.
func TestTokenKeysDoNotGoBack(t *testing.T) {
	r := newReplicas(t)
	r.sign(r.a, "one")
	s := &stalled{Store: r.store}
	r.a.store = s
	var made *trusteeapi.TokenKey
	s.hold = func() {
		var err error
		if made, err = r.a.Rotate(t.Context(), "one", trusteeapi.TokenKeyRotation{Compromised: true}); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.a.List(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	set, err := r.a.set(t.Context(), "one")
	if err != nil || made == nil || len(set.keys) != 1 || set.keys[0].ID != made.ID {
		t.Errorf("%+v, %v; want the one key after the rotation", set, err)
	}
}
