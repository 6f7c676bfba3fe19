package intel

import (
	"container/list"
	"sync"
)

// cache is a bounded map that forgets what was not used for longest. Values are
// made outside the lock: two callers may make one value at the same time.
type cache[K comparable, V any] struct {
	mu    sync.Mutex
	max   int
	order *list.List // front: used last
	at    map[K]*list.Element
}

type cached[K comparable, V any] struct {
	key   K
	value V
}

func newCache[K comparable, V any](limit int) *cache[K, V] {
	return &cache[K, V]{max: limit, order: list.New(), at: make(map[K]*list.Element)}
}

func (c *cache[K, V]) get(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.at[k]
	if !ok {
		var zero V
		return zero, false
	}
	c.order.MoveToFront(e)
	return e.Value.(cached[K, V]).value, true
}

func (c *cache[K, V]) put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.at[k]; ok {
		e.Value = cached[K, V]{k, v}
		return
	}
	c.at[k] = c.order.PushFront(cached[K, V]{k, v})
	if c.order.Len() > c.max {
		last := c.order.Back()
		delete(c.at, last.Value.(cached[K, V]).key)
		c.order.Remove(last)
	}
}
