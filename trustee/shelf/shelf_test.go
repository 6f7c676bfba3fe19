package shelf

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
)

// slowView delays the readers that come first, so that they end last.
type slowView struct {
	store.Store
	mu    sync.Mutex
	delay time.Duration
}

func (s *slowView) View(ctx context.Context, fn func(store.Tx) error) error {
	err := s.Store.View(ctx, fn)
	s.mu.Lock()
	d := s.delay
	s.delay = 0
	s.mu.Unlock()
	time.Sleep(d)
	return err
}

func TestImportsAtOnceLoseNothing(t *testing.T) {
	st, err := bolt.Open(filepath.Join(t.TempDir(), "db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	slow := &slowView{Store: st}
	h, err := Open(t.Context(), slow, limits.Defaults(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	slow.mu.Lock()
	slow.delay = 300 * time.Millisecond
	slow.mu.Unlock()
	item := func(i int) string { return fmt.Sprintf("https://vendor.example/%d", i) }
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * 100 * time.Millisecond)
			doc := fmt.Sprintf(`{"version":1,"items":[{"origin":%q,"body":"AAAA","fetched":"2026-01-01T00:00:00Z"}]}`, item(i))
			if _, err := h.Import(t.Context(), []byte(doc)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 2 {
		if _, ok := h.Get(item(i)); !ok {
			t.Errorf("%s was acknowledged and is not at hand", item(i))
		}
	}
}

func TestNothingFromTheFuture(t *testing.T) {
	st, err := bolt.Open(filepath.Join(t.TempDir(), "db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	h, err := Open(t.Context(), st, limits.Defaults(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	doc := func(at time.Time) []byte {
		return fmt.Appendf(nil, `{"version":1,"items":[{"origin":"https://vendor.example/crl","body":"AAAA","fetched":%q}]}`, at.Format(time.RFC3339))
	}
	if _, err := h.Import(t.Context(), doc(now.Add(24*time.Hour))); !errors.Is(err, ErrMalformed) {
		t.Errorf("from tomorrow: %v", err)
	}
	if _, ok := h.Get("https://vendor.example/crl"); ok {
		t.Error("refused, and at hand")
	}
	if _, err := h.Import(t.Context(), doc(now)); err != nil {
		t.Error(err)
	}
}
