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
		return s.openEmbedded()
	}
	// The replica's own folder has its audit chain, which has one writer.
	var err error
	if s.lock, err = lockState(ctx, c.State, s.lockWait()); err != nil {
		return err
	}
	if s.kek, err = openSharedKey(c.envelopeKey()); err != nil {
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

// openSharedKey never makes a key: every replica would make another.
func openSharedKey(path string) (keyring.KEK, error) {
	kek, err := keyring.OpenFileKEK(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: replicas share one: make it with `coffer-trustee new-envelope-key FILE`, once, and give it to each", err)
	}
	if err != nil {
		return nil, err
	}
	return kek, nil
}

func (s *Server) openEmbedded() error {
	c := &s.cfg
	kek, err := embeddedKey(c)
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

func embeddedKey(c *Config) (keyring.KEK, error) {
	open := keyring.CreateFileKEK
	if _, err := os.Stat(c.embedded()); err == nil {
		// A new key would leave everything unreadable; say what is missing instead.
		open = keyring.OpenFileKEK
	}
	k, err := open(c.envelopeKey())
	if err != nil {
		return nil, err
	}
	return k, nil
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
