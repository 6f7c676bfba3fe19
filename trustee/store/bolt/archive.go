package bolt

import (
	"context"
	"errors"
	"io"

	bbolt "go.etcd.io/bbolt"

	"github.com/cofferproject/coffer/trustee/store"
)

// Dump implements store.Dumper.
func (s *Store) Dump(ctx context.Context, visit func(bucket, key string, value []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.ErrClosed
	}
	return s.db.View(func(t *bbolt.Tx) error {
		return t.ForEach(func(name []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return visit(string(name), string(k), v)
			})
		})
	})
}

// Load implements store.Loader.
func (s *Store) Load(ctx context.Context, next func() (bucket, key string, value []byte, err error)) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.ErrClosed
	}
	return s.db.Update(func(t *bbolt.Tx) error {
		if first, _ := t.Cursor().First(); first != nil {
			return store.ErrNotEmpty
		}
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			b, k, v, err := next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err == nil {
				err = tx{t}.Put(b, k, v)
			}
			if err != nil {
				return err
			}
		}
	})
}
