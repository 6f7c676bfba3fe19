package tenant

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
)

// TestCount puts and takes keys, beginning with a bucket of a store that had no counts.
func TestCount(t *testing.T) {
	s, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const bucket = "ns/x/secrets"
	most := limits.Defaults()
	most[limits.Secrets] = 5
	update := func(fn func(store.Tx) error) error { return s.Update(t.Context(), fn) }
	old := func(tx store.Tx) error {
		return errors.Join(tx.Put(bucket, "old-1", []byte("x")), tx.Put(bucket, "old-2", []byte("x")))
	}
	if err := update(old); err != nil {
		t.Fatal(err)
	}
	add := func(key string) error {
		return update(func(tx store.Tx) error {
			if err := Grow(tx, most, limits.Secrets, "x", bucket); err != nil {
				return err
			}
			return tx.Put(bucket, key, []byte("x"))
		})
	}
	remove := func(key string) error {
		return update(func(tx store.Tx) error { return errors.Join(Shrink(tx, bucket), tx.Delete(bucket, key)) })
	}
	for i := range 3 {
		if err := add(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // a refusal changes nothing
		if err := add("one too many"); !errors.Is(err, limits.Err) {
			t.Errorf("a sixth key: %v", err)
		}
	}
	if err := remove("old-1"); err != nil {
		t.Fatal(err)
	}
	if err := add("with room again"); err != nil {
		t.Error(err)
	}
	if err := add("one too many"); !errors.Is(err, limits.Err) {
		t.Errorf("a sixth key again: %v", err)
	}
	for _, k := range []string{"old-2", "0", "1", "2", "with room again"} {
		if err := remove(k); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.View(t.Context(), func(tx store.Tx) error {
		if n, err := count(tx, bucket); n != 0 || err != nil {
			t.Errorf("an empty bucket counts %d, %v", n, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
