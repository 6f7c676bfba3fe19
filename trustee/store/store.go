// Package store is the trustee's one way to keep state: named buckets of
// key-value pairs in serialisable transactions. Package bolt is the embedded
// implementation; a shared one for replicas fits the same interface.
//
// Invariants: when Update returns nil its changes survive a crash at any later
// moment; when it returns an error none of them happened; secrets reach a store
// only encrypted (package keyring).
//
// Trust zone: trustee. What lies in a store may be read by whoever owns the disk.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrClosed says that the store was closed.
var ErrClosed = errors.New("store is closed")

// Store keeps state.
type Store interface {
	// View runs fn on one consistent state.
	View(ctx context.Context, fn func(Tx) error) error
	// Update runs fn and commits durably. fn may run several times and must
	// depend on nothing but the transaction; its own error is returned as it is.
	Update(ctx context.Context, fn func(Tx) error) error
	Close() error
}

// Tx is a transaction. Values that it gives are valid only inside of it and must
// not be changed. A bucket that was never written to is empty.
type Tx interface {
	// Get gives nil where the key does not exist.
	Get(bucket, key string) ([]byte, error)
	Put(bucket, key string, value []byte) error
	Delete(bucket, key string) error
	// Scan visits keys from `from` on, ascending, until fn gives false.
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
