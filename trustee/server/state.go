package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/keyservice"
	"github.com/cofferproject/coffer/trustee/keyservices"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/authentic"
	"github.com/cofferproject/coffer/trustee/store/bolt"
	"github.com/cofferproject/coffer/trustee/store/postgres"
)

// random fills a slice; it cannot fail.
func random(b []byte) { rand.Read(b) }

func (c *Config) embedded() string { return filepath.Join(c.State, "trustee.db") }

func (c *Config) envelopeKey() string {
	if c.EnvelopeKey != "" {
		return c.EnvelopeKey
	}
	return filepath.Join(c.State, "envelope.key")
}

// openState opens the envelope key and the store: the embedded one, or the
// database that replicas share.
func (s *Server) openState(ctx context.Context) error {
	c := &s.cfg
	if c.Database == "" {
		return s.openEmbedded(ctx)
	}
	// The replica's own folder has its audit chain, which has one writer.
	var err error
	if s.lock, err = lockState(ctx, c.State, s.lockWait()); err != nil {
		return err
	}
	if s.kek, err = c.openKEK(ctx); err != nil {
		return err
	}
	db, err := c.openDatabase(ctx)
	if err != nil {
		return err
	}
	s.store = db // so that it is closed, whatever comes
	known, err := authentic.Open(ctx, db, keyring.Placed{KEK: s.kek}, random)
	if err != nil {
		return err
	}
	s.store = known
	return nil
}

func (c *Config) openDatabase(ctx context.Context) (*postgres.Store, error) {
	return postgres.Open(ctx, postgres.Config{URL: c.Database, Connections: c.DatabaseConnections, Log: c.Log})
}

// openKEK opens the envelope key, with the one of before if there is one. It never makes
// a key: every replica would make another.
func (c *Config) openKEK(ctx context.Context) (keyring.KEK, error) {
	kek, err := openKey(ctx, c.envelopeKey(), c.KeyService)
	if errors.Is(err, os.ErrNotExist) && c.Database != "" {
		return nil, fmt.Errorf("%w: replicas share one: make it with `coffer-trustee new-envelope-key FILE`, once, and give it to each", err)
	}
	if err != nil || c.OldEnvelopeKey == "" {
		return kek, err
	}
	old, err := openKey(ctx, c.OldEnvelopeKey, c.OldKeyService)
	if err != nil {
		return nil, fmt.Errorf("old %w", err)
	}
	if old.ID() == kek.ID() {
		return nil, errors.New("the old envelope key is the new one")
	}
	return keyring.Both{KEK: kek, Old: old}, nil
}

// openKey opens a key's file with the key service that a spec names, if one does.
func openKey(ctx context.Context, path, spec string) (keyring.KEK, error) {
	service, err := openService(ctx, spec)
	if err != nil {
		return nil, err
	}
	k, err := keyring.OpenKEK(ctx, path, service)
	if err != nil {
		return nil, err
	}
	return k, nil
}

func openService(ctx context.Context, spec string) (keyservice.Service, error) {
	if spec == "" {
		return nil, nil
	}
	s, err := keyservices.Open(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("key service: %w", err)
	}
	return s, nil
}

func (s *Server) openEmbedded(ctx context.Context) error {
	c := &s.cfg
	kek, err := c.embeddedKey(ctx)
	if err != nil {
		return err
	}
	s.kek = kek
	opened, err := bolt.Open(c.embedded(), s.lockWait())
	if err != nil {
		return err
	}
	s.store = opened
	return nil
}

// embeddedKey makes the key of a store that is not there yet. A new key for one that is
// would leave everything unreadable.
func (c *Config) embeddedKey(ctx context.Context) (keyring.KEK, error) {
	_, noStore := os.Stat(c.embedded())
	_, noKey := os.Stat(c.envelopeKey())
	if errors.Is(noStore, os.ErrNotExist) && errors.Is(noKey, os.ErrNotExist) {
		if _, err := NewEnvelopeKey(ctx, c.envelopeKey(), c.KeyService); err != nil {
			return nil, err
		}
	}
	return c.openKEK(ctx)
}

// NewEnvelopeKey makes an envelope key in a file that is not there yet, wrapped by the
// key service that spec names, if it is not "", and gives its id.
func NewEnvelopeKey(ctx context.Context, path, spec string) (string, error) {
	service, err := openService(ctx, spec)
	if err != nil {
		return "", err
	}
	var k *keyring.FileKEK
	if service == nil {
		k, err = keyring.CreateFileKEK(path)
	} else {
		k, err = keyring.CreateWrapped(ctx, path, service)
	}
	if err != nil {
		return "", err
	}
	return k.ID(), nil
}

// WrapEnvelopeKey writes an envelope key of one file to another that is not there yet,
// as the other key service wraps it. The key is the same.
func WrapEnvelopeKey(ctx context.Context, from, fromService, to, toService string) (id string, err error) {
	old, err := openService(ctx, fromService)
	if err != nil {
		return "", err
	}
	next, err := openService(ctx, toService)
	if err != nil {
		return "", err
	}
	if next == nil {
		return "", errors.New("no key service to wrap the key")
	}
	k, err := keyring.OpenKEK(ctx, from, old)
	if err != nil {
		return "", err
	}
	return k.ID(), keyring.WriteWrapped(ctx, to, k, next)
}

func (s *Server) lockWait() time.Duration {
	if s.cfg.LockWait == 0 {
		return lockWait
	}
	return s.cfg.LockWait
}

// lockState keeps a second process from a replica's folder. The kernel gives the
// lock back when its holder ends, however it ends.
func lockState(ctx context.Context, dir string, wait time.Duration) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for start := time.Now(); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(start) > wait || ctx.Err() != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = errors.New("another trustee has it open")
			}
			return nil, fmt.Errorf("opening %s: %w", dir, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Healthy gives the reason for which this server can do nothing now, or nil.
func (s *Server) Healthy() error {
	if h, ok := s.store.(store.Health); ok {
		return h.Healthy()
	}
	return nil
}
