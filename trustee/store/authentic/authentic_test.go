package authentic

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
	"github.com/cofferproject/coffer/trustee/store/storetest"
)

func random(b []byte) { rand.Read(b) }

func newKEK(t testing.TB) keyring.KEK {
	t.Helper()
	k, err := keyring.CreateFileKEK(filepath.Join(t.TempDir(), "envelope.key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func embedded(t testing.TB, path string) *bolt.Store {
	t.Helper()
	b, err := bolt.Open(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func open(t testing.TB, inner store.Store, kek keyring.KEK) *Store {
	t.Helper()
	s, err := Open(t.Context(), inner, keyring.Placed{KEK: kek}, random)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	kek, path := newKEK(t), ""
	storetest.Run(t, storetest.Subject{
		Fresh:  func(t testing.TB) { path = filepath.Join(t.TempDir(), "db") },
		Open:   func(t testing.TB) store.Store { return open(t, embedded(t, path), kek) },
		NoLoad: true,
	})
}

// TestWhoeverOwnsTheDatabase changes it in every way that it can.
func TestWhoeverOwnsTheDatabase(t *testing.T) {
	kek, ctx := newKEK(t), context.Background()
	inner := embedded(t, filepath.Join(t.TempDir(), "db"))
	s := open(t, inner, kek)
	if err := s.Update(ctx, func(tx store.Tx) error {
		return errors.Join(tx.Put("admins", "a", []byte("alice")), tx.Put("admins", "b", []byte("bob")), tx.Put("others", "a", []byte("carol")))
	}); err != nil {
		t.Fatal(err)
	}
	raw := func(bucket, key string) (v []byte) {
		_ = inner.View(ctx, func(tx store.Tx) error {
			b, err := tx.Get(bucket, key)
			v = append([]byte{}, b...)
			return err
		})
		return v
	}
	alice := raw("admins", "a")
	flipped := append([]byte{}, alice...)
	flipped[len(flipped)-1] ^= 1
	for _, c := range []struct {
		name        string
		bucket, key string
		value       []byte
	}{
		{"changed", "admins", "a", flipped}, {"another key's", "admins", "a", raw("admins", "b")}, {"another bucket's", "admins", "a", raw("others", "a")},
		{"added", "admins", "mallory", []byte("mallory")}, {"added with another's MAC", "admins", "mallory", alice}, {"without a MAC", "admins", "a", []byte("alice")},
		{"empty", "admins", "a", nil}, {"name and bucket run together", "admin", "sa", alice},
	} {
		before := raw(c.bucket, c.key)
		if err := inner.Update(ctx, func(tx store.Tx) error { return tx.Put(c.bucket, c.key, c.value) }); err != nil {
			t.Fatal(err)
		}
		var got, scanned, back, dumped error
		err := s.View(ctx, func(tx store.Tx) error {
			_, got = tx.Get(c.bucket, c.key)
			scanned = tx.Scan(c.bucket, "", func(string, []byte) (bool, error) { return true, nil })
			back = tx.ScanBack(c.bucket, func(string, []byte) (bool, error) { return true, nil })
			return nil
		})
		dumped = s.Dump(ctx, func(string, string, []byte) error { return nil })
		for _, e := range []error{got, scanned, back, dumped} {
			if err != nil || !errors.Is(e, store.ErrTampered) {
				t.Errorf("%s: %v, %v", c.name, e, err)
			}
		}
		if err := inner.Update(ctx, func(tx store.Tx) error {
			if len(before) == 0 {
				return tx.Delete(c.bucket, c.key)
			}
			return tx.Put(c.bucket, c.key, before)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.View(ctx, func(tx store.Tx) error { _, err := tx.Get(bucket, keyName); return err }); err == nil {
		t.Error("the key's place can be read")
	}
	// Without its key's pair a store that has something is not begun anew.
	if err := inner.Update(ctx, func(tx store.Tx) error { return tx.Delete(bucket, keyName) }); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, inner, keyring.Placed{KEK: kek}, random); !errors.Is(err, store.ErrTampered) {
		t.Errorf("a store whose key was taken away: %v", err)
	}
}

func TestAnotherEnvelopeKey(t *testing.T) {
	inner := embedded(t, filepath.Join(t.TempDir(), "db"))
	open(t, inner, newKEK(t))
	if _, err := Open(t.Context(), inner, keyring.Placed{KEK: newKEK(t)}, random); err == nil {
		t.Error("opened with another envelope key")
	}
}

func TestLoad(t *testing.T) {
	kek := newKEK(t)
	inner := embedded(t, filepath.Join(t.TempDir(), "db"))
	i := 0
	next := func() (string, string, []byte, error) {
		if i++; i > 3 {
			return "", "", nil, io.EOF
		}
		return "b", fmt.Sprint(i), []byte("v"), nil
	}
	if err := Load(t.Context(), inner, keyring.Placed{KEK: kek}, random, next); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := open(t, inner, kek).Dump(t.Context(), func(_, _ string, v []byte) error { n += len(v); return nil }); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
	i = 0
	if err := Load(t.Context(), inner, keyring.Placed{KEK: kek}, random, next); !errors.Is(err, store.ErrNotEmpty) {
		t.Error(err)
	}
}

// TestBegunTogether has replicas begin one store at once, each with a pair of its
// own as soon as it can.
func TestBegunTogether(t *testing.T) {
	kek := newKEK(t)
	for range 20 {
		inner := embedded(t, filepath.Join(t.TempDir(), "db"))
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				s, err := Open(t.Context(), inner, keyring.Placed{KEK: kek}, random)
				if err == nil {
					err = s.Update(t.Context(), func(tx store.Tx) error { return tx.Put("a", fmt.Sprint(i), nil) })
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		n := 0
		if err := open(t, inner, kek).Dump(t.Context(), func(string, string, []byte) error { n++; return nil }); err != nil || n != 4 {
			t.Errorf("%d of 4, %v", n, err)
		}
	}
}
