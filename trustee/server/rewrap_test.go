package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/keyservice/transit/fakevault"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// kept is a store with secrets of which somebody has acknowledged the writing.
type kept struct {
	t   *testing.T
	cfg Config
	doc []byte
}

func (k *kept) start(change func(*Config)) (*Server, error) {
	c := k.cfg
	if change != nil {
		change(&c)
	}
	return Start(k.t.Context(), c)
}

// fill begins the store.
func (k *kept) fill() {
	k.t.Helper()
	s, err := k.start(nil)
	if err != nil {
		k.t.Fatal(err)
	}
	defer s.Close(k.t.Context())
	a := newAdminClient(k.t, s)
	a.takeFakes("default")
	k.doc = document(k.t, "pod a")
	for i := range 3 {
		a.put("default", fmt.Sprintf("default/many/%d", i), "other")
	}
	a.put("default", secretName, "of before")
	a.put("default", secretName, "hunter2")
	a.must("POST", "/namespaces/default/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(k.doc)}})
	a.rotateTokenKey("default", trusteeapi.TokenKeyRotation{})
}

// check starts a server and has a pod read both versions of the secret.
func (k *kept) check(what string, change func(*Config)) {
	k.t.Helper()
	s, err := k.start(change)
	if err != nil {
		k.t.Errorf("%s: %v", what, err)
		return
	}
	defer s.Close(k.t.Context())
	c := newRCAR(k.t, string(s.keys.CAPEM), s.URL())
	c.handshake(k.doc)
	for path, want := range map[string]string{secretName: "hunter2", secretName + "?version=1": "of before"} {
		if a := c.get(path); a.status != 200 || string(c.open(a.body)) != want {
			k.t.Errorf("%s: %s: %d %s", what, path, a.status, a.body)
		}
	}
	if backup, err := os.Create(filepath.Join(k.t.TempDir(), "backup")); err != nil {
		k.t.Error(err)
	} else if _, err := s.backup(k.t.Context(), backup); err != nil {
		k.t.Errorf("%s: backup: %v", what, err)
	}
}

func newKept(t *testing.T, database string) *kept {
	t.Helper()
	k := &kept{t: t, cfg: Config{
		State: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Verifiers: map[string]appraisal.Factory{fakeTEE: fakeFactory}, Database: database,
	}}
	k.cfg.EnvelopeKey = filepath.Join(t.TempDir(), "old.key")
	if _, err := keyring.CreateFileKEK(k.cfg.EnvelopeKey); err != nil {
		t.Fatal(err)
	}
	k.fill()
	return k
}

// cut is a store whose updates fail from the nth on, as those of a process that was
// killed.
type cut struct {
	store.Store
	left int
}

var errCut = errors.New("killed")

func (c *cut) Update(ctx context.Context, fn func(store.Tx) error) error {
	if c.left == 0 {
		return errCut
	}
	c.left--
	return c.Store.Update(ctx, fn)
}

func (c *cut) Dump(ctx context.Context, visit func(bucket, key string, value []byte) error) error {
	return c.Store.(store.Dumper).Dump(ctx, visit)
}

// TestRewrap brings an embedded store and a database from a key file to a key that a
// key service wraps, cut off after each write: with both keys everything is readable at
// any time, and afterwards with the new one alone.
func TestRewrap(t *testing.T) {
	v := fakevault.Start(t)
	for name, database := range map[string]func() string{
		"embedded": func() string { return "" },
		"database": func() string { return pgtest.Start(t).Database("trustee") },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKept(t, database())
			spec := v.Spec(t, t.TempDir())
			next := filepath.Join(t.TempDir(), "new.key")
			if _, err := NewEnvelopeKey(t.Context(), next, spec); err != nil {
				t.Fatal(err)
			}
			both := func(c *Config) {
				c.OldEnvelopeKey, c.EnvelopeKey, c.KeyService = k.cfg.EnvelopeKey, next, spec
			}
			alone := func(c *Config) { c.EnvelopeKey, c.KeyService = next, spec }
			k.check("both keys, before", both)
			rewrapBatch = 2
			defer func() { rewrapBatch = 256 }()
			var r *Rewrapped
			for n := 1; r == nil; n++ {
				c := k.cfg
				both(&c)
				c.WrapStore = func(s store.Store) store.Store { return &cut{s, n} }
				var err error
				if r, err = Rewrap(t.Context(), c, nil); err != nil && !errors.Is(err, errCut) {
					t.Fatal(err)
				}
				k.check(fmt.Sprintf("cut off after %d writes", n), both)
				if n > 50 {
					t.Fatal("it does not end")
				}
			}
			k.check("the new key alone", alone)
			if s, err := k.start(nil); err == nil {
				s.Close(t.Context())
				t.Error("the old key opens the store still")
			}
			c := k.cfg
			both(&c)
			if r, err := Rewrap(t.Context(), c, nil); err != nil || r.Values != 0 || r.StoreKey {
				t.Errorf("again: %+v, %v", r, err)
			}
		})
	}
}

// TestKeyService starts on a key that a service wraps: with it, without it, with
// another one, while it hangs, and runs on without it.
func TestKeyService(t *testing.T) {
	v := fakevault.Start(t)
	spec := v.Spec(t, t.TempDir())
	k := &kept{t: t, cfg: Config{
		State: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Verifiers: map[string]appraisal.Factory{fakeTEE: fakeFactory}, KeyService: spec,
	}}
	k.fill()
	file := filepath.Join(k.cfg.State, "envelope.key")
	if b, err := os.ReadFile(file); err != nil || !strings.Contains(string(b), `"service": "vault-transit:`) {
		t.Fatalf("%s, %v", b, err)
	}
	k.check("with it", nil)
	refused := func(what, want string, change func(*Config)) {
		t.Helper()
		s, err := k.start(change)
		if err == nil {
			s.Close(t.Context())
			t.Errorf("%s: started", what)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("without it", "--key-service", func(c *Config) { c.KeyService = "" })
	other := fakevault.Start(t)
	refused("another service", "is wrapped by", func(c *Config) { c.KeyService = other.Spec(t, t.TempDir()) })
	refused("a service of no kind", "is none of aws-kms, azure-kms, gcp-kms, pkcs11, vault-transit", func(c *Config) { c.KeyService = "kms:x" })
	token := v.Token
	v.Token = "hvs.other"
	refused("a token that ended", "403", nil)
	v.Token = token

	// It runs on when the service has gone, and starts again when that is back.
	s, err := k.start(nil)
	if err != nil {
		t.Fatal(err)
	}
	v.Fail(fakevault.Hang)
	c := newRCAR(t, string(s.keys.CAPEM), s.URL())
	c.handshake(k.doc)
	if a := c.get(secretName); a.status != 200 {
		t.Errorf("without the service: %d %s", a.status, a.body)
	}
	s.Close(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if s, err := Start(ctx, k.cfg); err == nil {
		s.Close(t.Context())
		t.Error("started while the service hangs")
	}
	v.Fail(nil)
	k.check("the service is back", nil)

	// The same key, wrapped by another service: the store stays as it is.
	moved := filepath.Join(t.TempDir(), "moved.key")
	otherSpec := other.Spec(t, t.TempDir())
	if _, err := WrapEnvelopeKey(t.Context(), file, spec, moved, otherSpec); err != nil {
		t.Fatal(err)
	}
	v.Fail(fakevault.Hang)
	k.check("moved", func(c *Config) { c.EnvelopeKey, c.KeyService = moved, otherSpec })
	if _, err := WrapEnvelopeKey(t.Context(), moved, otherSpec, moved, otherSpec); err == nil {
		t.Error("a file was overwritten")
	}
	plain := filepath.Join(t.TempDir(), "plain.key")
	if _, err := keyring.CreateFileKEK(plain); err != nil {
		t.Fatal(err)
	}
	refused("a plain file with a service", "not wrapped", func(c *Config) { c.EnvelopeKey, c.KeyService = plain, otherSpec })
}
