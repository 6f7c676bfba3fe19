// Package storetest is what every store keeps to, as tests: the embedded one and
// PostgreSQL run the same.
//
// Trust zone: tests only.
package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cofferproject/coffer/trustee/store"
)

// Subject makes what is tested. Open gives the same state again after Close, also
// where another is open already if the store is shared; Fresh begins an empty one.
type Subject struct {
	Fresh  func(t testing.TB)
	Open   func(t testing.TB) store.Store
	Shared bool
	// NoLoad says that the store is filled in another way than by store.Loader.
	NoLoad bool
}

// Run runs the suite.
func Run(t *testing.T, s Subject) {
	for _, c := range []struct {
		name string
		fn   func(*testing.T, Subject)
	}{
		{"Pairs", pairs}, {"Order", order}, {"Limits", limits}, {"FailedUpdateChangesNothing", failed}, {"GroupKeepsUpdatesApart", apart},
		{"CountersAreSerial", serial}, {"ViewIsOneState", oneState}, {"Closed", closed}, {"CancelledContext", cancelled}, {"Archive", archive},
		{"TwoAtOnce", two},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.Fresh(t)
			c.fn(t, s)
		})
	}
}

func get(t testing.TB, s store.Store, bucket, key string) (v []byte) {
	t.Helper()
	if err := s.View(t.Context(), func(tx store.Tx) error {
		b, err := tx.Get(bucket, key)
		if b != nil {
			v = append([]byte{}, b...)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return v
}

func put(t testing.TB, s store.Store, bucket string, kv ...string) {
	t.Helper()
	if err := s.Update(t.Context(), func(tx store.Tx) error {
		for i := 0; i+1 < len(kv); i += 2 {
			if err := tx.Put(bucket, kv[i], []byte(kv[i+1])); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func pairs(t *testing.T, sub Subject) {
	s := sub.Open(t)
	odd := "k\x00\xff/'\"; --\n"
	if err := s.Update(t.Context(), func(tx store.Tx) error {
		if v, err := tx.Get("b", "k"); v != nil || err != nil {
			t.Errorf("an absent key: %q, %v", v, err)
		}
		if err := errors.Join(tx.Put("b", "k", []byte("1")), tx.Put("b", "k", []byte("2")), tx.Put("c", "k", []byte("3")),
			tx.Put("b", odd, []byte{0, 255}), tx.Put("b", "empty", nil), tx.Put("b", "gone", nil), tx.Delete("b", "gone"), tx.Delete("b", "never"), tx.Delete("never", "k")); err != nil {
			return err
		}
		if v, err := tx.Get("b", "k"); string(v) != "2" || err != nil {
			t.Errorf("an update does not see its own change: %q, %v", v, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	check := func(s store.Store) {
		t.Helper()
		for _, c := range []struct{ bucket, key, want string }{{"b", "k", "2"}, {"c", "k", "3"}, {"b", odd, "\x00\xff"}, {"b", "empty", ""}} {
			if v := get(t, s, c.bucket, c.key); v == nil || string(v) != c.want {
				t.Errorf("%s/%q is %q", c.bucket, c.key, v)
			}
		}
		for _, k := range []string{"gone", "never"} {
			if v := get(t, s, "b", k); v != nil {
				t.Errorf("%s is %q", k, v)
			}
		}
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(sub.Open(t))
}

// order has more keys than one page of any store, in the order of their bytes,
// and reads within a scan.
func order(t *testing.T, sub Subject) {
	s := sub.Open(t)
	var want []string
	if err := s.Update(t.Context(), func(tx store.Tx) error {
		want = want[:0]
		for i := range 600 {
			want = append(want, fmt.Sprintf("%04d", i))
		}
		want = append(want, "A", "Z", "a", "ä", "\xff")
		for i := range want {
			k := want[(i*7)%len(want)]
			if err := tx.Put("b", k, []byte("v"+k)); err != nil {
				return err
			}
		}
		return tx.Put("other", "a", nil)
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.View(t.Context(), func(tx store.Tx) error {
		var up, down, some, few []string
		err := errors.Join(
			tx.Scan("b", "", func(k string, v []byte) (bool, error) {
				up = append(up, k)
				if string(v) != "v"+k {
					t.Errorf("%q has value %q", k, v)
				}
				if w, err := tx.Get("b", k); err != nil || !bytes.Equal(v, w) {
					t.Errorf("Get within a scan: %q, %v", w, err)
				}
				return true, nil
			}),
			tx.ScanBack("b", func(k string, _ []byte) (bool, error) { down = append(down, k); return true, nil }),
			tx.Scan("b", "0599", func(k string, _ []byte) (bool, error) { some = append(some, k); return true, nil }),
			tx.Scan("b", "05985", func(k string, _ []byte) (bool, error) { few = append(few, k); return len(few) < 2, nil }),
			tx.Scan("none", "", func(string, []byte) (bool, error) { return true, errors.New("visited") }),
			tx.ScanBack("none", func(string, []byte) (bool, error) { return true, errors.New("visited") }),
		)
		if strings.Join(up, "|") != strings.Join(want, "|") {
			t.Errorf("up: %q", up)
		}
		for i, k := range down {
			if k != want[len(want)-1-i] {
				t.Fatalf("down: %q is number %d", k, i)
			}
		}
		if len(down) != len(want) || strings.Join(some, "|") != "0599|A|Z|a|ä|\xff" || strings.Join(few, "|") != "0599|A" {
			t.Errorf("%d down, %q, %q", len(down), some, few)
		}
		bad := errors.New("bad")
		if err := tx.Scan("b", "", func(string, []byte) (bool, error) { return true, bad }); !errors.Is(err, bad) {
			t.Errorf("a scan's own error: %v", err)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func limits(t *testing.T, sub Subject) {
	s := sub.Open(t)
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		bucket, key string
		value       int
		ok          bool
	}{
		{"b", long(store.MaxKey), 0, true}, {long(store.MaxBucket), "k", 0, true}, {"b", "large", 20 << 20, true},
		{"b", long(store.MaxKey + 1), 0, false}, {long(store.MaxBucket + 1), "k", 0, false}, {"b", "", 0, false}, {"", "k", 0, false},
		{"b", "k", store.MaxValue + 1, false},
	} {
		err := s.Update(t.Context(), func(tx store.Tx) error { return tx.Put(c.bucket, c.key, make([]byte, c.value)) })
		if (err == nil) != c.ok || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("bucket of %d, key of %d, value of %d: %v", len(c.bucket), len(c.key), c.value, err)
		}
		if c.ok && len(get(t, s, c.bucket, c.key)) != c.value {
			t.Errorf("key of %d, value of %d: other value", len(c.key), c.value)
		}
	}
}

func failed(t *testing.T, sub Subject) {
	s := sub.Open(t)
	put(t, s, "b", "k", "old")
	bad := errors.New("bad")
	err := s.Update(t.Context(), func(tx store.Tx) error {
		if err := errors.Join(tx.Put("b", "k", []byte("new")), tx.Put("new", "k", nil), tx.Delete("b", "k")); err != nil {
			return err
		}
		return bad
	})
	if err != bad { //nolint:errorlint // the contract: returned as it is
		t.Errorf("%v", err)
	}
	if v := get(t, s, "b", "k"); string(v) != "old" || get(t, s, "new", "k") != nil {
		t.Errorf("a failed update left %q", v)
	}
	if err := s.View(t.Context(), func(tx store.Tx) error { return bad }); err != bad { //nolint:errorlint // as above
		t.Errorf("%v", err)
	}
	if err := s.View(t.Context(), func(tx store.Tx) error { _ = tx.Put("b", "k", []byte("x")); return nil }); string(get(t, s, "b", "k")) != "old" {
		t.Errorf("a view has changed something: %v", err)
	}
}

func apart(t *testing.T, sub Subject) {
	s := sub.Open(t)
	bad := errors.New("bad")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			err := s.Update(t.Context(), func(tx store.Tx) error {
				if err := tx.Put("b", fmt.Sprint(i), []byte{byte(i)}); err != nil {
					return err
				}
				switch i % 50 {
				case 3:
					return bad // after it has changed something
				case 7:
					panic("broken")
				}
				return nil
			})
			if fails := i%50 == 3 || i%50 == 7; fails != (err != nil) {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = sub.Open(t)
	for i := range 200 {
		if fails := i%50 == 3 || i%50 == 7; fails == (get(t, s, "b", fmt.Sprint(i)) != nil) {
			t.Errorf("key %d after reopening: there %t", i, fails)
		}
	}
}

func increment(ctx context.Context, s store.Store, bucket string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		v, err := tx.Get(bucket, "n")
		if err != nil {
			return err
		}
		n := uint64(0)
		if v != nil {
			n = binary.BigEndian.Uint64(v)
		}
		return tx.Put(bucket, "n", binary.BigEndian.AppendUint64(nil, n+1))
	})
}

func serial(t *testing.T, sub Subject) {
	stores := []store.Store{sub.Open(t)}
	if sub.Shared {
		stores = append(stores, sub.Open(t), sub.Open(t))
	}
	const each = 40
	var wg sync.WaitGroup
	for _, s := range stores {
		for range 4 {
			wg.Go(func() {
				for range each {
					if err := increment(t.Context(), s, "b"); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	if n := binary.BigEndian.Uint64(get(t, stores[0], "b", "n")); n != uint64(4*each*len(stores)) {
		t.Errorf("%d increments counted of %d", n, 4*each*len(stores))
	}
}

// oneState changes two keys together while views compare them.
func oneState(t *testing.T, sub Subject) {
	s := sub.Open(t)
	put(t, s, "b", "x", "0", "y", "0")
	stop, views := make(chan struct{}), atomic.Int64{}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.View(t.Context(), func(tx store.Tx) error {
					x, err := tx.Get("b", "x")
					if err != nil {
						return err
					}
					x = append([]byte{}, x...)
					y, err := tx.Get("b", "y")
					if err == nil && !bytes.Equal(x, y) {
						t.Errorf("a view sees %s and %s", x, y)
					}
					return err
				}); err != nil {
					t.Error(err)
				}
				views.Add(1)
			}
		})
	}
	for i := 0; i < 50 || views.Load() < 50; i++ {
		v := fmt.Sprint(i)
		put(t, s, "b", "x", v, "y", v)
	}
	close(stop)
	wg.Wait()
}

func closed(t *testing.T, sub Subject) {
	s := sub.Open(t)
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if err := s.Update(t.Context(), func(store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
	if err := s.View(t.Context(), func(store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
}

func cancelled(t *testing.T, sub Subject) {
	s := sub.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.View(ctx, func(store.Tx) error { t.Error("ran"); return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	put(t, s, "b", "k", "v") // and it still works
}

func dump(t testing.TB, s store.Store) string {
	t.Helper()
	var b strings.Builder
	d, ok := s.(store.Dumper)
	if !ok {
		t.Fatalf("%T cannot be dumped", s)
	}
	if err := d.Dump(t.Context(), func(bucket, key string, value []byte) error {
		_, err := fmt.Fprintf(&b, "%q %q %q\n", bucket, key, value)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func archive(t *testing.T, sub Subject) {
	type kv struct{ b, k, v string }
	var all []kv
	for i := range 700 {
		all = append(all, kv{fmt.Sprintf("b%d", i%3), fmt.Sprintf("%05d", i), strings.Repeat("v", i)})
	}
	feed := func(end error) func() (string, string, []byte, error) {
		i := -1
		return func() (string, string, []byte, error) {
			if i++; i == len(all) {
				return "", "", nil, end
			}
			return all[i].b, all[i].k, []byte(all[i].v), nil
		}
	}
	s := sub.Open(t)
	if sub.NoLoad {
		put(t, s, "b", "k", "1", "l", "2")
		put(t, s, "a", "z", "3")
		if d := dump(t, s); d != `"a" "z" "3"`+"\n"+`"b" "k" "1"`+"\n"+`"b" "l" "2"`+"\n" {
			t.Errorf("dumped: %s", d)
		}
		return
	}
	a, ok := s.(store.Loader)
	if !ok {
		t.Fatalf("%T cannot be loaded", s)
	}
	if dump(t, s) != "" {
		t.Error("an empty store has something in it")
	}
	bad := errors.New("cut off")
	if err := a.Load(t.Context(), feed(bad)); !errors.Is(err, bad) || dump(t, s) != "" {
		t.Errorf("a load that broke off: %v, and left something: %t", err, dump(t, s) != "")
	}
	if err := a.Load(t.Context(), feed(io.EOF)); err != nil {
		t.Fatal(err)
	}
	got := dump(t, s)
	if strings.Count(got, "\n") != len(all) || string(get(t, s, "b1", "00001")) != "v" {
		t.Errorf("%d pairs of %d", strings.Count(got, "\n"), len(all))
	}
	if err := a.Load(t.Context(), feed(io.EOF)); !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("a load into a store in use: %v", err)
	}
	if dump(t, s) != got {
		t.Error("the refused load has changed something")
	}
	if err := s.(store.Dumper).Dump(t.Context(), func(string, string, []byte) error { return bad }); !errors.Is(err, bad) {
		t.Error(err)
	}
}

func two(t *testing.T, sub Subject) {
	if !sub.Shared {
		return
	}
	a, b := sub.Open(t), sub.Open(t)
	put(t, a, "b", "k", "of a")
	if v := get(t, b, "b", "k"); string(v) != "of a" {
		t.Errorf("the other replica sees %q", v)
	}
	put(t, b, "b", "k", "of b")
	if v := get(t, a, "b", "k"); string(v) != "of b" {
		t.Errorf("the first replica sees %q", v)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	put(t, b, "b", "k", "alone")
}
