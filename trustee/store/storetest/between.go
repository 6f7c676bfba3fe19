package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/cofferproject/coffer/trustee/store"
)

// Between lets another come between what a request has read and its change, as another
// replica does: an update that puts into a bucket is undone once, the other runs, and the
// update is made after all.
type Between struct {
	store.Store
	mu     sync.Mutex
	bucket string
	then   func()
}

// Arm has then run before the next change of bucket; "": of any.
func (s *Between) Arm(bucket string, then func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bucket, s.then = bucket, then
}

var errBetween = errors.New("another comes first")

// Update implements store.Store.
func (s *Between) Update(ctx context.Context, fn func(store.Tx) error) error {
	var then func()
	err := s.Store.Update(ctx, func(tx store.Tx) error {
		p := &putTx{Tx: tx}
		if err := fn(p); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.then == nil || s.bucket != "" && !slices.Contains(p.buckets, s.bucket) {
			return nil
		}
		then, s.then = s.then, nil
		return errBetween
	})
	if !errors.Is(err, errBetween) {
		return err
	}
	then()
	return s.Store.Update(ctx, fn)
}

// putTx knows into which buckets it has put.
type putTx struct {
	store.Tx
	buckets []string
}

// Put implements store.Tx.
func (t *putTx) Put(bucket, key string, value []byte) error {
	t.buckets = append(t.buckets, bucket)
	return t.Tx.Put(bucket, key, value)
}
