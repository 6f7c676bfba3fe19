// Package store is the trustee's one way to keep state: named buckets of
// key-value pairs in serialisable transactions. Package bolt is the embedded
// implementation, package postgres the one that replicas share; package storetest
// is what both have to keep to.
//
// Invariants: when Update returns nil its changes survive a crash at any later
// moment; when it returns an error other than ErrUnknown none of them happened; secrets reach a store
// only encrypted (package keyring).
//
// Trust zone: trustee. What lies in a store may be read by whoever owns the disk.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
)

// ErrClosed says that the store was closed.
var ErrClosed = errors.New("store is closed")

// ErrUnavailable says that the store cannot be reached or cannot take anything
// now; the same may work later. Whoever answers a peer says so with
// ReasonUnavailable.
var ErrUnavailable = errors.New("store is unavailable")

// ErrUnknown is an ErrUnavailable of an update of which nobody can say now
// whether it happened: the store went away before it answered, and stayed away.
var ErrUnknown = fmt.Errorf("%w, and whether the last change was made is not known", ErrUnavailable)

// ErrTampered says that what is in the store was not put there by the trustee.
var ErrTampered = errors.New("store was changed from outside")

// ErrUnavailable and ErrTampered on the wire. docs/denials.md explains both.
const (
	ReasonUnavailable denial.Reason = "store-unavailable"
	ReasonTampered    denial.Reason = "store-tampered"
)

// Limits of one pair, in bytes; every implementation has the same.
const (
	MaxBucket = 256
	MaxKey    = 2048 // an origin of collateral is the longest
	MaxValue  = 128 << 20
)

// CheckPut refuses a pair that some implementation could not keep.
func CheckPut(bucket, key string, value []byte) error {
	if bucket == "" || len(bucket) > MaxBucket || key == "" || len(key) > MaxKey || len(value) > MaxValue {
		return fmt.Errorf("store: bucket of %d bytes, key of %d, value of %d: not within 1 to %d, 1 to %d, 0 to %d",
			len(bucket), len(key), len(value), MaxBucket, MaxKey, MaxValue)
	}
	return nil
}

// Store keeps state.
type Store interface {
	// View runs fn once, on one consistent state.
	View(ctx context.Context, fn func(Tx) error) error
	// Update runs fn and commits durably. fn may run several times and must
	// depend on nothing but the transaction; its own error is returned as it is.
	Update(ctx context.Context, fn func(Tx) error) error
	Close() error
}

// Health is implemented by a store that can go away while its user lives.
type Health interface {
	// Healthy gives an ErrUnavailable while nothing can be had from the store.
	Healthy() error
}

// Dumper is implemented by stores that can be backed up.
type Dumper interface {
	// Dump visits every pair of one consistent state, ordered by bucket and key.
	Dump(ctx context.Context, visit func(bucket, key string, value []byte) error) error
}

// Loader is implemented by stores into which a backup can be put.
type Loader interface {
	// Load fills an empty store with all that next gives until io.EOF, or with
	// nothing; ErrNotEmpty where anything is there.
	Load(ctx context.Context, next func() (bucket, key string, value []byte, err error)) error
}

// ErrNotEmpty says that a store has something in it.
var ErrNotEmpty = errors.New("store is not empty")

// Tx is a transaction. Values that it gives are valid only inside of it and must
// not be changed. A bucket that was never written to is empty.
type Tx interface {
	// Get gives nil where the key does not exist.
	Get(bucket, key string) ([]byte, error)
	Put(bucket, key string, value []byte) error
	Delete(bucket, key string) error
	// Scan visits keys from `from` on, ascending by their bytes, until fn gives
	// false. fn may read, and must not change the bucket that is scanned.
	Scan(bucket, from string, fn func(key string, value []byte) (bool, error)) error
	// ScanBack visits keys from the last one down.
	ScanBack(bucket string, fn func(key string, value []byte) (bool, error)) error
}

// GetJSON decodes a value; false where the key does not exist.
func GetJSON[T any](tx Tx, bucket, key string) (*T, bool, error) {
	b, err := tx.Get(bucket, key)
	if err != nil || b == nil {
		return nil, false, err
	}
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, false, fmt.Errorf("store: %s/%s: %w", bucket, key, err)
	}
	return v, true, nil
}

// PutJSON encodes a value.
func PutJSON(tx Tx, bucket, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("store: %s/%s: %w", bucket, key, err)
	}
	return tx.Put(bucket, key, b)
}

// List decodes all values of a bucket, in the order of their keys.
func List[T any](tx Tx, bucket string) ([]T, error) {
	out := []T{}
	err := tx.Scan(bucket, "", func(key string, value []byte) (bool, error) {
		var v T
		if err := json.Unmarshal(value, &v); err != nil {
			return false, fmt.Errorf("store: %s/%s: %w", bucket, key, err)
		}
		out = append(out, v)
		return true, nil
	})
	return out, err
}
