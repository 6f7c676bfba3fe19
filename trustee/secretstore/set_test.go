package secretstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowStore answers when it is let, or after its time.
type slowStore struct {
	calls atomic.Int64
	let   chan struct{}
	value []byte // of the last answer
}

func (s *slowStore) Check(w Want) error {
	if strings.Contains(w.Name, "!") {
		return errors.New("no name")
	}
	return nil
}
func (s *slowStore) Numbered() bool { return false }
func (s *slowStore) Fetch(ctx context.Context, w Want) (*Secret, error) {
	s.calls.Add(1)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.let:
		s.value = []byte("of " + w.Name)
		return &Secret{Value: s.value}, nil
	}
}

func setOf(t *testing.T, s Store, specs ...string) *Set {
	t.Helper()
	var all []*Spec
	for _, text := range specs {
		spec, err := ParseSpec(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, spec)
	}
	set, err := NewSet(t.Context(), all, func(context.Context, *Spec) (Store, error) { return s, nil })
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestRequestsShareAFlight has many ask at once, and the store asked once; each gets
// bytes of its own, and nothing stays behind.
func TestRequestsShareAFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &slowStore{let: make(chan struct{})}
		set := setOf(t, st, "a=x:y?namespaces=n,m")
		var wg sync.WaitGroup
		got := make([]*Secret, 50)
		for i := range got {
			wg.Go(func() { got[i], _ = set.Fetch(t.Context(), "n", "a", Want{Name: "s"}) })
		}
		synctest.Wait()
		if n := st.calls.Load(); n != 1 {
			t.Errorf("the store was asked %d times", n)
		}
		wg.Go(func() { _, _ = set.Fetch(t.Context(), "m", "a", Want{Name: "s"}) })
		synctest.Wait()
		if n := st.calls.Load(); n != 2 {
			t.Errorf("another namespace took part: %d calls", n)
		}
		close(st.let)
		wg.Wait()
		for i, s := range got {
			if s == nil || string(s.Value) != "of s" {
				t.Fatalf("%d: %v", i, s)
			}
			clear(s.Value)
		}
		if !bytes.Equal(st.value, make([]byte, 4)) {
			t.Errorf("the flight's own copy stays: %q", st.value)
		}
		if len(set.flights)+len(set.busy) != 0 {
			t.Errorf("left behind: %v, %v", set.flights, set.busy)
		}
		if s, err := set.Fetch(t.Context(), "n", "a", Want{Name: "s"}); err != nil || string(s.Value) != "of s" || st.calls.Load() != 3 {
			t.Errorf("an answer was kept: %v, %v, %d calls", s, err, st.calls.Load())
		}
	})
}

// TestShareOfAStore has one namespace fill its share while another goes on.
func TestShareOfAStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &slowStore{let: make(chan struct{})}
		set := setOf(t, st, "a=x:y?namespaces=*")
		var wg sync.WaitGroup
		var busy, away atomic.Int64
		ask := func(ns, name string) {
			_, err := set.Fetch(t.Context(), ns, "a", Want{Name: name})
			switch {
			case errors.Is(err, ErrBusy):
				busy.Add(1)
			case errors.Is(err, ErrAway):
				away.Add(1)
			}
		}
		for i := range share + 5 {
			wg.Go(func() { ask("n", strings.Repeat("s", i+1)) })
		}
		synctest.Wait()
		if busy.Load() != 5 {
			t.Errorf("%d were refused", busy.Load())
		}
		wg.Go(func() { ask("m", "s") })
		synctest.Wait()
		if n := st.calls.Load(); n != share+1 {
			t.Errorf("the other namespace was not let: %d calls", n)
		}
		begun := time.Now()
		wg.Wait()
		if took := time.Since(begun); took > timeout || away.Load() != share+1 || len(set.busy) != 0 {
			t.Errorf("after %v, %d late, %v", took, away.Load(), set.busy)
		}
	})
}

// TestNobodyWaits has the only one who waits go, which ends the fetch.
func TestNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &slowStore{let: make(chan struct{})}
		set := setOf(t, st, "a=x:y?namespaces=n")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { _, err := set.Fetch(ctx, "n", "a", Want{Name: "s"}); done <- err }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		synctest.Wait()
		if len(set.flights)+len(set.busy) != 0 {
			t.Errorf("left behind: %v, %v", set.flights, set.busy)
		}
	})
}

func TestWhoMayUseAStore(t *testing.T) {
	set := setOf(t, &slowStore{}, "a=x:y?namespaces=n", "b=x:y?namespaces=*")
	for _, tc := range []struct {
		ns, store string
		ok        bool
	}{{"n", "a", true}, {"m", "a", false}, {"*", "a", false}, {"m", "b", true}, {"n", "c", false}, {"", "a", false}} {
		if err := set.Check(tc.ns, tc.store, Want{Name: "s"}); (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrUnknown) {
			t.Errorf("%s, %s: %v", tc.ns, tc.store, err)
		}
		if _, err := set.Numbered(tc.ns, tc.store); (err == nil) != tc.ok {
			t.Errorf("%s, %s: %v", tc.ns, tc.store, err)
		}
	}
	if _, err := set.Fetch(t.Context(), "m", "a", Want{Name: "s"}); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	if _, err := set.Fetch(t.Context(), "n", "a", Want{Name: "s!"}); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
	var none *Set
	if _, err := none.Fetch(t.Context(), "n", "a", Want{Name: "s"}); !errors.Is(err, ErrUnknown) || len(none.In("n")) != 0 {
		t.Error(err)
	}
}

func TestParseSpec(t *testing.T) {
	s, err := ParseSpec("prod=vault:https://v:8200/kv?kv=2&namespaces=a,b&ca=/x")
	if err != nil || s.Name != "prod" || s.Kind != "vault" || s.At != "https://v:8200/kv" || len(s.Namespaces) != 2 || s.Options.Encode() != (url.Values{"kv": {"2"}, "ca": {"/x"}}).Encode() {
		t.Errorf("%+v, %v", s, err)
	}
	for _, text := range []string{
		"", "prod", "prod=vault", "prod=vault:x", "prod=vault:x?namespaces=", "Prod=vault:x?namespaces=a", "=vault:x?namespaces=a", "a/b=vault:x?namespaces=a",
		"prod=vault:x?namespaces=a&namespaces=b", "prod=vault:x?namespaces=a&ca=", "prod=vault:x?namespaces=a&ca=b&ca=c", "prod=vault:x?%zz", strings.Repeat("a", 64) + "=vault:x?namespaces=a",
	} {
		if s, err := ParseSpec(text); err == nil {
			t.Errorf("%q: %+v", text, s)
		}
	}
	twice := []*Spec{s, s}
	if _, err := NewSet(t.Context(), twice, func(context.Context, *Spec) (Store, error) { return &slowStore{}, nil }); err == nil {
		t.Error("two stores of one name")
	}
}

// TestOutcomesAreObserved: each request to a store is heard of once, with its outcome.
func TestOutcomesAreObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &slowStore{let: make(chan struct{})}
		set := setOf(t, st, "a=x:y?namespaces=n")
		var mu sync.Mutex
		got := map[string]int{}
		set.Observe = func(store, outcome string, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			got[store+" "+outcome]++
		}
		ctx, cancel := context.WithCancel(t.Context())
		for i := range share {
			go func() { _, _ = set.Fetch(ctx, "n", "a", Want{Name: fmt.Sprint(i)}) }()
		}
		synctest.Wait()
		if _, err := set.Fetch(t.Context(), "n", "a", Want{Name: "one more"}); !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
		cancel()
		synctest.Wait()
		_, _ = set.Fetch(t.Context(), "n", "a", Want{Name: "slow"}) // until it is given up
		close(st.let)
		for range 2 {
			if _, err := set.Fetch(t.Context(), "n", "a", Want{Name: "quick"}); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if want := map[string]int{"a busy": 1, "a left": share, "a away": 1, "a fetched": 2}; !maps.Equal(got, want) {
			t.Errorf("heard of %v, want %v", got, want)
		}
	})
}
