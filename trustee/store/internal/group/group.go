// Package group lets concurrent updates of a store share commits: while one
// transaction is made durable, the next updates gather.
//
// Invariants: updates of a group are serial; one that fails changes nothing and
// takes none of the others along; what was queued is answered before Close returns.
//
// Trust zone: trustee.
package group

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cofferproject/coffer/trustee/store"
)

// gather is how long a group waits for more where the one before had several: a
// commit costs the same for one update and for many, in time of the processor too,
// and who comes alone waits for nobody.
const gather = time.Millisecond

// Committer runs updates in groups.
type Committer struct {
	// transact runs fn in one transaction and commits durably; fn's error rolls
	// it back and is returned. It may run fn again after a fault of its own.
	transact func(fn func(store.Tx) error) error
	most     int // updates in one commit
	queue    chan *update
	done     chan struct{} // closed when the loop has ended

	mu     sync.RWMutex
	closed bool
}

type update struct {
	fn  func(store.Tx) error
	err chan error
}

// New starts a Committer over a backend's transactions, of at most so many
// updates each.
func New(most int, transact func(fn func(store.Tx) error) error) *Committer {
	c := &Committer{transact: transact, most: most, queue: make(chan *update, most), done: make(chan struct{})}
	go c.loop()
	return c
}

// Update is store.Store's. Once queued an update is not taken back: its outcome
// is awaited even if ctx ends.
func (c *Committer) Update(ctx context.Context, fn func(store.Tx) error) error {
	u := &update{fn, make(chan error, 1)}
	c.mu.RLock()
	if c.closed {
		c.mu.RUnlock()
		return store.ErrClosed
	}
	select {
	case c.queue <- u:
		c.mu.RUnlock()
	case <-ctx.Done():
		c.mu.RUnlock()
		return ctx.Err()
	}
	return <-u.err
}

// Close waits for what was queued.
func (c *Committer) Close() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.queue)
	}
	c.mu.Unlock()
	<-c.done
}

func (c *Committer) loop() {
	defer close(c.done)
	last := 0
	for u := range c.queue {
		if last > 1 {
			time.Sleep(gather)
		}
		group := c.queued([]*update{u})
		last = len(group)
		c.commit(group)
	}
}

// queued adds what is in the queue.
func (c *Committer) queued(group []*update) []*update {
	for len(group) < c.most {
		select {
		case u, ok := <-c.queue:
			if !ok {
				return group
			}
			group = append(group, u)
		default:
			return group
		}
	}
	return group
}

// commit runs a group in one transaction. An update that fails takes its changes
// back, so the transaction is rolled back and the others run again without it.
func (c *Committer) commit(group []*update) {
	for len(group) > 0 {
		failed := -1
		var cause error
		err := c.transact(func(tx store.Tx) error {
			failed, cause = -1, nil
			for i, u := range group {
				if err := run(u.fn, tx); err != nil {
					failed, cause = i, err
					return err
				}
			}
			return nil
		})
		// A store that is not there fails all of them: none is to blame.
		if failed < 0 || errors.Is(err, store.ErrUnavailable) {
			if err != nil && !errors.Is(err, store.ErrUnavailable) {
				err = fmt.Errorf("%w: committing: %w", store.ErrUnavailable, err) // a full disk, for one
			}
			for _, u := range group {
				u.err <- err
			}
			return
		}
		group[failed].err <- cause
		group = append(group[:failed], group[failed+1:]...)
	}
}

// run turns a panic of one update into its error, so that it cannot stop the
// committer for everybody.
func run(fn func(store.Tx) error, t store.Tx) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("store: update panicked: %v", r)
		}
	}()
	return fn(t)
}
