// Package lru keeps what was made last: what a verifier has verified once, under
// the hash of its bytes, need not be parsed and verified again.
//
// Invariants: never more than the limit; safe for concurrent use. Values are made
// outside the lock: two callers may make one value at the same time.
//
// Trust zone: trustee and owner.
package lru

import (
	"container/list"
	"sync"
)

// Cache is a bounded map that forgets what was not used for longest.
type Cache[K comparable, V any] struct {
	mu    sync.Mutex
	limit int
	order *list.List // of entry, front: used last
	at    map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// New makes a cache of at most limit values.
func New[K comparable, V any](limit int) *Cache[K, V] {
	return &Cache[K, V]{limit: limit, order: list.New(), at: map[K]*list.Element{}}
}

// Get gives a value.
func (c *Cache[K, V]) Get(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.at[k]
	if !ok {
		var none V
		return none, false
	}
	c.order.MoveToFront(e)
	return e.Value.(entry[K, V]).value, true
}

// Put keeps a value in the place of the one that was under its key.
func (c *Cache[K, V]) Put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.at[k]; ok {
		e.Value = entry[K, V]{k, v}
		c.order.MoveToFront(e)
		return
	}
	c.at[k] = c.order.PushFront(entry[K, V]{k, v})
	if c.order.Len() > c.limit {
		last := c.order.Back()
		delete(c.at, last.Value.(entry[K, V]).key)
		c.order.Remove(last)
	}
}
