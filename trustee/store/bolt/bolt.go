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
)

const maxGroup = 256 // updates in one commit

// Store implements store.Store.
type Store struct {
	db    *bbolt.DB
	queue chan *update
	done  chan struct{} // closed when the committer has ended

	mu     sync.RWMutex
	closed bool
}

type update struct {
	fn  func(store.Tx) error
	err chan error
}

// Open opens or makes the file. Where another process has it open it waits so
// long for that to end.
func Open(path string, wait time.Duration) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: wait, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("opening %s: another trustee has it open", path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	s := &Store{db: db, queue: make(chan *update, maxGroup), done: make(chan struct{})}
	go s.commitLoop()
	return s, nil
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

// Update implements store.Store. Once queued an update is not taken back: its
// outcome is awaited even if ctx ends.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	u := &update{fn, make(chan error, 1)}
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return store.ErrClosed
	}
	select {
	case s.queue <- u:
		s.mu.RUnlock()
	case <-ctx.Done():
		s.mu.RUnlock()
		return ctx.Err()
	}
	return <-u.err
}

// Close waits for what was queued.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.queue)
	s.mu.Unlock()
	<-s.done
	return s.db.Close()
}

func (s *Store) commitLoop() {
	defer close(s.done)
	for u := range s.queue {
		group := []*update{u}
	gather:
		for len(group) < maxGroup {
			select {
			case n, ok := <-s.queue:
				if !ok {
					break gather
				}
				group = append(group, n)
			default:
				break gather
			}
		}
		s.commit(group)
	}
}

// commit runs a group in one transaction. An update that fails takes its changes
// back, so the transaction is rolled back and the others run again without it.
func (s *Store) commit(group []*update) {
	for len(group) > 0 {
		failed := -1
		var cause error
		err := s.db.Update(func(t *bbolt.Tx) error {
			for i, u := range group {
				if err := run(u.fn, tx{t}); err != nil {
					failed, cause = i, err
					return err
				}
			}
			return nil
		})
		if failed < 0 {
			if err != nil {
				err = fmt.Errorf("store: committing: %w", err)
			}
			for _, u := range group {
				u.err <- err
			}
			return
		}
		group[failed].err <- cause
		group = append(group[:failed], group[failed+1:]...)
	}
}

// run turns a panic of one update into its error, so that it cannot stop the
// committer for everybody.
func run(fn func(store.Tx) error, t store.Tx) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("store: update panicked: %v", r)
		}
	}()
	return fn(t)
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
