package bolt

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/store"
)

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestGroupCommitKeepsUpdatesApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	bad := errors.New("bad")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			err := s.Update(t.Context(), func(tx store.Tx) error {
				if err := tx.Put("b", fmt.Sprint(i), []byte{byte(i)}); err != nil {
					return err
				}
				switch i % 10 {
				case 3:
					return bad // after it has changed something
				case 7:
					panic("broken")
				}
				return nil
			})
			if fails := i%10 == 3 || i%10 == 7; fails != (err != nil) {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	for i := range 200 {
		var got []byte
		if err := s.View(t.Context(), func(tx store.Tx) (err error) { got, err = tx.Get("b", fmt.Sprint(i)); return err }); err != nil {
			t.Fatal(err)
		}
		if fails := i%10 == 3 || i%10 == 7; fails == (got != nil) {
			t.Errorf("key %d after restart: %v", i, got)
		}
	}
}

func TestScan(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	if err := s.Update(t.Context(), func(tx store.Tx) error {
		for _, k := range []string{"c", "a", "b", "d"} {
			if err := tx.Put("b", k, nil); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var up, down string
	if err := s.View(t.Context(), func(tx store.Tx) error {
		if v, err := tx.Get("b", "a"); v == nil || err != nil {
			t.Error("an empty value is there, and not nil")
		}
		return errors.Join(
			tx.Scan("b", "b", func(k string, _ []byte) (bool, error) { up += k; return k != "c", nil }),
			tx.ScanBack("b", func(k string, _ []byte) (bool, error) { down += k; return true, nil }),
			tx.Scan("none", "", func(string, []byte) (bool, error) { return true, errors.New("visited") }),
		)
	}); err != nil {
		t.Fatal(err)
	}
	if up != "bc" || down != "dcba" {
		t.Errorf("%q %q", up, down)
	}
}

func TestClosed(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	s.Close()
	if err := s.Update(t.Context(), func(store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
	if err := s.View(t.Context(), func(store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
}

func BenchmarkUpdate(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "db"))
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Update(b.Context(), func(tx store.Tx) error { return tx.Put("b", "k", []byte("v")) }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
