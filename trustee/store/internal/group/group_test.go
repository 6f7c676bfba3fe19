package group_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/internal/group"
)

// Updates that come together share commits, each is answered with its own outcome,
// and one that comes alone after them waits for nobody for ever.
func TestUpdatesGather(t *testing.T) {
	commits, ran := 0, 0
	c := group.New(64, func(fn func(store.Tx) error) error {
		commits++ // serial, as the invariant says
		time.Sleep(time.Millisecond)
		return fn(nil)
	})
	bad := errors.New("bad")
	var wg sync.WaitGroup
	const workers, each = 16, 20
	for w := range workers {
		wg.Go(func() {
			for range each {
				err := c.Update(context.Background(), func(store.Tx) error {
					if w == 0 {
						return bad
					}
					ran++
					return nil
				})
				if (w == 0) != errors.Is(err, bad) {
					t.Errorf("worker %d: %v", w, err)
				}
			}
		})
	}
	wg.Wait()
	if commits >= workers*each {
		t.Errorf("%d commits of %d updates", commits, workers*each)
	}
	done := make(chan error, 1)
	go func() { done <- c.Update(context.Background(), func(store.Tx) error { return nil }) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("an update alone is not committed")
	}
	c.Close()
	if err := c.Update(context.Background(), func(store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if ran < (workers-1)*each {
		t.Errorf("%d updates ran", ran)
	}
}
