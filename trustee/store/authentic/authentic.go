// Package authentic keeps whoever owns a database from putting anything into it:
// every value carries a MAC over its place and content, under a key that is in
// the store only wrapped by the envelope key. What an administrator, a policy or
// a binding is, is then the trustee's word and not the database's.
//
// Invariants: a value that was changed, added or moved is ErrTampered, and never
// an answer. Not covered: deleting, and giving a value again that was there once.
//
// Trust zone: trustee.
package authentic

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/trustee/store"
)

// KeySize is the size of a MAC key, in bytes.
const KeySize = 32

// bucket has what a Store keeps for itself; its users do not see it.
const bucket = "authentic"

const keyName = "mac-key"

// Wrapper wraps keys for their place in the store (keyring.Encrypt and Decrypt
// with the envelope key).
type Wrapper interface {
	Wrap(ctx context.Context, place string, key []byte) ([]byte, error)
	Unwrap(ctx context.Context, place string, wrapped []byte) ([]byte, error)
}

// Store implements store.Store, store.Dumper and store.Health over a store that
// has these too.
type Store struct {
	inner store.Store
	key   []byte
}

// Open gives a Store over inner. An empty one gets a key; one that is not empty
// and has none was not written by a Store and is refused.
func Open(ctx context.Context, inner store.Store, w Wrapper, random func([]byte)) (*Store, error) {
	for {
		wrapped, empty, err := readKey(ctx, inner)
		if err != nil {
			return nil, err
		}
		if wrapped != nil {
			key, err := w.Unwrap(ctx, bucket+"/"+keyName, wrapped)
			if err != nil {
				return nil, fmt.Errorf("store's MAC key: %w", err)
			}
			if len(key) != KeySize {
				return nil, fmt.Errorf("store's MAC key: %d bytes, not %d", len(key), KeySize)
			}
			return &Store{inner, key}, nil
		}
		if !empty {
			return nil, fmt.Errorf("%w: it holds something, and no MAC key", store.ErrTampered)
		}
		key := make([]byte, KeySize)
		random(key)
		if wrapped, err = w.Wrap(ctx, bucket+"/"+keyName, key); err != nil {
			return nil, fmt.Errorf("store's MAC key: %w", err)
		}
		// Of replicas that start together one's key stays; all read it then.
		if err := inner.Update(ctx, func(tx store.Tx) error {
			have, err := tx.Get(bucket, keyName)
			if err != nil || have != nil {
				return err
			}
			return tx.Put(bucket, keyName, wrapped)
		}); err != nil {
			return nil, err
		}
	}
}

var errSome = errors.New("there is something")

func readKey(ctx context.Context, inner store.Store) (wrapped []byte, empty bool, err error) {
	if wrapped, err = storedKey(ctx, inner); err != nil || wrapped != nil {
		return wrapped, false, err
	}
	d, ok := inner.(store.Dumper)
	if !ok {
		return nil, false, fmt.Errorf("store of type %T cannot be listed", inner)
	}
	switch err := d.Dump(ctx, func(string, string, []byte) error { return errSome }); {
	case errors.Is(err, errSome):
		// Another replica may have begun the store meanwhile, the key first.
		wrapped, err := storedKey(ctx, inner)
		return wrapped, false, err
	case err != nil:
		return nil, false, err
	}
	return nil, true, nil
}

func storedKey(ctx context.Context, inner store.Store) (wrapped []byte, err error) {
	err = inner.View(ctx, func(tx store.Tx) error {
		b, err := tx.Get(bucket, keyName)
		wrapped = bytes.Clone(b)
		return err
	})
	return wrapped, err
}

func (s *Store) mac(bucket, key string, value []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	var n [8]byte
	for _, p := range []string{bucket, key} {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	h.Write(value)
	return h.Sum(nil)
}

func (s *Store) seal(bucket, key string, value []byte) []byte {
	return append(s.mac(bucket, key, value), value...)
}

func (s *Store) open(bucket, key string, v []byte) ([]byte, error) {
	if len(v) < sha256.Size || !hmac.Equal(v[:sha256.Size], s.mac(bucket, key, v[sha256.Size:])) {
		return nil, fmt.Errorf("%w: %s/%.80q", store.ErrTampered, bucket, key)
	}
	return v[sha256.Size:], nil
}

// View implements store.Store.
func (s *Store) View(ctx context.Context, fn func(store.Tx) error) error {
	return s.inner.View(ctx, func(t store.Tx) error { return fn(tx{s, t}) })
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	return s.inner.Update(ctx, func(t store.Tx) error { return fn(tx{s, t}) })
}

// Close implements store.Store.
func (s *Store) Close() error { return s.inner.Close() }

// Healthy implements store.Health.
func (s *Store) Healthy() error {
	if h, ok := s.inner.(store.Health); ok {
		return h.Healthy()
	}
	return nil
}

// Dump implements store.Dumper: values without their MACs, once verified.
func (s *Store) Dump(ctx context.Context, visit func(bucket, key string, value []byte) error) error {
	d, ok := s.inner.(store.Dumper)
	if !ok {
		return fmt.Errorf("store of type %T cannot be listed", s.inner)
	}
	return d.Dump(ctx, func(b, k string, v []byte) error {
		if b == bucket {
			return nil
		}
		plain, err := s.open(b, k, v)
		if err != nil {
			return err
		}
		return visit(b, k, plain)
	})
}

// Load fills an empty store with all that next gives until io.EOF, or with
// nothing, under a new key.
func Load(ctx context.Context, inner store.Store, w Wrapper, random func([]byte), next func() (bucket, key string, value []byte, err error)) error {
	l, ok := inner.(store.Loader)
	if !ok {
		return fmt.Errorf("store of type %T cannot be loaded", inner)
	}
	s := &Store{inner: inner, key: make([]byte, KeySize)}
	random(s.key)
	wrapped, err := w.Wrap(ctx, bucket+"/"+keyName, s.key)
	if err != nil {
		return fmt.Errorf("store's MAC key: %w", err)
	}
	first := true
	return l.Load(ctx, func() (string, string, []byte, error) {
		if first {
			first = false
			return bucket, keyName, wrapped, nil
		}
		b, k, v, err := next()
		if err == nil && b == bucket {
			err = reserved()
		}
		if err != nil {
			return "", "", nil, err
		}
		return b, k, s.seal(b, k, v), nil
	})
}

// Rewrap has rewrap wrap the MAC key of a store anew; nil from it: it is so already.
func Rewrap(ctx context.Context, inner store.Store, rewrap func(place string, wrapped []byte) ([]byte, error)) (changed bool, err error) {
	err = inner.Update(ctx, func(tx store.Tx) error {
		changed = false
		v, err := tx.Get(bucket, keyName)
		if err != nil || v == nil {
			return err
		}
		next, err := rewrap(bucket+"/"+keyName, bytes.Clone(v))
		if err != nil || next == nil {
			return err
		}
		changed = true
		return tx.Put(bucket, keyName, next)
	})
	return changed, err
}

func reserved() error { return fmt.Errorf("store: bucket %s is reserved", bucket) }

type tx struct {
	s *Store
	t store.Tx
}

// Get implements store.Tx.
func (x tx) Get(b, key string) ([]byte, error) {
	if b == bucket {
		return nil, reserved()
	}
	v, err := x.t.Get(b, key)
	if err != nil || v == nil {
		return nil, err
	}
	return x.s.open(b, key, v)
}

// Put implements store.Tx.
func (x tx) Put(b, key string, value []byte) error {
	if b == bucket {
		return reserved()
	}
	if err := store.CheckPut(b, key, value); err != nil {
		return err
	}
	return x.t.Put(b, key, x.s.seal(b, key, value))
}

// Delete implements store.Tx.
func (x tx) Delete(b, key string) error {
	if b == bucket {
		return reserved()
	}
	return x.t.Delete(b, key)
}

// Scan implements store.Tx.
func (x tx) Scan(b, from string, fn func(string, []byte) (bool, error)) error {
	if b == bucket {
		return reserved()
	}
	return x.t.Scan(b, from, x.verified(b, fn))
}

// ScanBack implements store.Tx.
func (x tx) ScanBack(b string, fn func(string, []byte) (bool, error)) error {
	if b == bucket {
		return reserved()
	}
	return x.t.ScanBack(b, x.verified(b, fn))
}

func (x tx) verified(b string, fn func(string, []byte) (bool, error)) func(string, []byte) (bool, error) {
	return func(k string, v []byte) (bool, error) {
		plain, err := x.s.open(b, k, v)
		if err != nil {
			return false, err
		}
		return fn(k, plain)
	}
}
