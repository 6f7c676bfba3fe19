// Package bolt keeps the trustee's state in one file on one machine (bbolt).
// Concurrent updates share commits: while one is being synced to disk, the next
// ones gather (group commit).
//
// Trust zone: trustee.
package bolt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	bbolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/internal/group"
)

const maxGroup = 256 // updates in one commit

// Store implements store.Store.
type Store struct {
	db     *bbolt.DB
	writes *group.Committer

	mu     sync.RWMutex
	closed bool
}

// ErrInUse says that another process has the file open.
var ErrInUse = errors.New("another trustee has it open")

// Open opens or makes the file. Where another process has it open it waits so
// long for that to end.
func Open(path string, wait time.Duration) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: wait, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("opening %s: %w", path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	s := &Store{db: db}
	s.writes = group.New(maxGroup, s.transact)
	return s, nil
}

// transact is one durable transaction. The last step of a commit can fail when everybody
// reads the change already: the disk does not say that it has the page, and the next
// commit builds on it.
func (s *Store) transact(fn func(store.Tx) error) error {
	id, ran := 0, false
	err := s.db.Update(func(t *bbolt.Tx) error {
		id = t.ID()
		err := fn(tx{t})
		ran = err == nil
		return err
	})
	if err == nil || !ran {
		return err
	}
	seen := false
	if verr := s.db.View(func(t *bbolt.Tx) error { seen = t.ID() >= id; return nil }); verr != nil || seen {
		return fmt.Errorf("%w: committing: %w", store.ErrUnknown, err)
	}
	return err
}

// View implements store.Store.
func (s *Store) View(ctx context.Context, fn func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.ErrClosed
	}
	return s.db.View(func(t *bbolt.Tx) error { return fn(tx{t}) })
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	return s.writes.Update(ctx, fn)
}

// Close waits for what was queued.
func (s *Store) Close() error {
	s.writes.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.db.Close()
}

type tx struct{ t *bbolt.Tx }

func (x tx) Get(bucket, key string) ([]byte, error) {
	b := x.t.Bucket([]byte(bucket))
	if b == nil {
		return nil, nil
	}
	return b.Get([]byte(key)), nil
}

func (x tx) Put(bucket, key string, value []byte) error {
	if err := store.CheckPut(bucket, key, value); err != nil {
		return err
	}
	b, err := x.t.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if value == nil {
		value = []byte{}
	}
	return b.Put([]byte(key), value)
}

func (x tx) Delete(bucket, key string) error {
	b := x.t.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Delete([]byte(key))
}

func (x tx) Scan(bucket, from string, fn func(string, []byte) (bool, error)) error {
	b := x.t.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, v := c.Seek([]byte(from)); k != nil; k, v = c.Next() {
		if more, err := fn(string(k), v); err != nil || !more {
			return err
		}
	}
	return nil
}

func (x tx) ScanBack(bucket string, fn func(string, []byte) (bool, error)) error {
	b := x.t.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, v := c.Last(); k != nil; k, v = c.Prev() {
		if more, err := fn(string(k), v); err != nil || !more {
			return err
		}
	}
	return nil
}
