package bolt

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/storetest"
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

func TestConformance(t *testing.T) {
	var path string
	storetest.Run(t, storetest.Subject{
		Fresh: func(t testing.TB) { path = filepath.Join(t.TempDir(), "db") },
		Open:  func(t testing.TB) store.Store { return open(t, path) },
	})
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
