package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cofferproject/coffer/trustee/backup"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/authentic"
	"github.com/cofferproject/coffer/trustee/store/bolt"
)

// ErrRunning says that a trustee has its embedded store open: it is the one to
// ask for a backup then.
var ErrRunning = bolt.ErrInUse

// briefly is how long a command waits for a store that is in use.
const briefly = 500 * time.Millisecond

// backup writes the store of this server.
func (s *Server) backup(ctx context.Context, w io.Writer) (int, error) {
	return writeBackup(ctx, s.store, s.kek, w, s.cfg)
}

func writeBackup(ctx context.Context, st store.Store, kek keyring.KEK, w io.Writer, c Config) (int, error) {
	d, ok := st.(store.Dumper)
	if !ok {
		return 0, fmt.Errorf("store of type %T cannot be backed up", st)
	}
	return backup.Write(ctx, w, d, kek, c.Now())
}

// Backup writes all of a store to w without a server and gives the number of
// pairs. A database may be in use; of an embedded store whose trustee runs it is
// ErrRunning.
func Backup(ctx context.Context, c Config, w io.Writer) (n int, err error) {
	kek, err := c.openKEK(ctx)
	if err != nil {
		return 0, err
	}
	var st store.Store
	if c.Database == "" {
		if _, err := os.Stat(c.embedded()); err != nil {
			return 0, fmt.Errorf("store: %w", err)
		}
		if st, err = bolt.Open(c.embedded(), briefly); err != nil {
			return 0, err
		}
	} else {
		db, err := c.openDatabase(ctx)
		if err != nil {
			return 0, err
		}
		if st, err = authentic.Open(ctx, db, keyring.Placed{KEK: kek}, random); err != nil {
			return 0, errors.Join(err, db.Close())
		}
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return writeBackup(ctx, st, kek, w, c)
}

// Restore fills an empty store from a backup, with all of it or with nothing, and
// gives the number of pairs.
func Restore(ctx context.Context, c Config, r io.Reader) (n int, err error) {
	kek, err := c.openKEK(ctx)
	if err != nil {
		return 0, err
	}
	in, err := backup.NewReader(ctx, r, kek)
	if err != nil {
		return 0, err
	}
	next := func() (string, string, []byte, error) {
		b, k, v, err := in.Next()
		if err == nil {
			n++
		}
		return b, k, v, err
	}
	if c.Database == "" {
		if err := restoreEmbedded(ctx, &c, next); err != nil {
			return 0, fmt.Errorf("restoring: %w", err)
		}
		return n, nil
	}
	db, err := c.openDatabase(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := authentic.Load(ctx, db, keyring.Placed{KEK: kek}, random, next); err != nil {
		return 0, fmt.Errorf("restoring: %w", err)
	}
	return n, nil
}

func restoreEmbedded(ctx context.Context, c *Config, next func() (string, string, []byte, error)) (err error) {
	_, missing := os.Stat(c.embedded())
	st, err := bolt.Open(c.embedded(), briefly)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, st.Close())
		if err != nil && missing != nil {
			// An empty store would be begun anew at the next start.
			err = errors.Join(err, os.Remove(c.embedded()))
		}
	}()
	return st.Load(ctx, next)
}
