package tenant

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
)

// counts has the number of keys of each bucket that may have very many, so that one
// more does not cost a look at all of them. One that is not here yet is counted.
const counts = "counts"

// Grow counts a key that is about to be put into a bucket and was not there, unless
// that is one too many; where is as for Room.
func Grow(tx store.Tx, most limits.Set, name limits.Name, where, bucket string) error {
	if err := Fits(tx, most, name, where, bucket); err != nil {
		return err
	}
	return Added(tx, bucket)
}

// Shrink counts a key that is taken out of a bucket and was there.
func Shrink(tx store.Tx, bucket string) error {
	n, err := count(tx, bucket)
	if err != nil || n == 0 {
		return err
	}
	return setCount(tx, bucket, n-1)
}

// Fits reports whether a bucket that is counted takes one more key.
func Fits(tx store.Tx, most limits.Set, name limits.Name, where, bucket string) error {
	n, err := count(tx, bucket)
	if err != nil {
		return err
	}
	if most, err = Limits(tx, most, where); err != nil {
		return err
	}
	return most.Check(name, where, int(n)+1)
}

// Added counts a key that was put where Fits has kept room for it.
func Added(tx store.Tx, bucket string) error {
	n, err := count(tx, bucket)
	if err != nil {
		return err
	}
	return setCount(tx, bucket, n+1)
}

// GrowBytes counts the length of a value that is about to be put into a bucket where
// there was none, unless it is too much.
func GrowBytes(tx store.Tx, most limits.Set, name limits.Name, where, bucket string, length int) error {
	n, err := bytesOf(tx, bucket)
	if err != nil {
		return err
	}
	if most, err = Limits(tx, most, where); err != nil {
		return err
	}
	if err := most.Check(name, where, int(n)+length); err != nil {
		return err
	}
	return setCount(tx, bucket+lengths, n+uint64(length))
}

// DeleteBytes takes a value out of a bucket whose lengths are counted.
func DeleteBytes(tx store.Tx, bucket, key string) error {
	v, err := tx.Get(bucket, key)
	if err != nil || v == nil {
		return err
	}
	length := uint64(len(v))
	n, err := bytesOf(tx, bucket)
	if err != nil {
		return err
	}
	return errors.Join(setCount(tx, bucket+lengths, n-min(n, length)), tx.Delete(bucket, key))
}

// lengths follows the name of a bucket of which the values' lengths are counted.
const lengths = "#bytes"

func bytesOf(tx store.Tx, bucket string) (n uint64, err error) {
	b, err := tx.Get(counts, bucket+lengths)
	switch {
	case err != nil:
		return 0, err
	case b == nil:
		err = tx.Scan(bucket, "", func(_ string, v []byte) (bool, error) { n += uint64(len(v)); return true, nil })
		return n, err
	case len(b) != 8:
		return 0, fmt.Errorf("bytes of %s are malformed", bucket)
	}
	return binary.BigEndian.Uint64(b), nil
}

// count is asked before the bucket is changed.
func count(tx store.Tx, bucket string) (n uint64, err error) {
	b, err := tx.Get(counts, bucket)
	switch {
	case err != nil:
		return 0, err
	case b == nil: // a store from before there were counts, or an empty bucket
		err = tx.Scan(bucket, "", func(string, []byte) (bool, error) { n++; return true, nil })
		return n, err
	case len(b) != 8:
		return 0, fmt.Errorf("count of %s is malformed", bucket)
	}
	return binary.BigEndian.Uint64(b), nil
}

func setCount(tx store.Tx, bucket string, n uint64) error {
	return tx.Put(counts, bucket, binary.BigEndian.AppendUint64(nil, n))
}
