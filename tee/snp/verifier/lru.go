package verifier

import (
	"container/list"
	"sync"
)

// lru keeps the most recently used values: what was verified once need not be
// parsed and verified again. Safe for concurrent use.
type lru[K comparable, V any] struct {
	mu    sync.Mutex
	limit int
	order *list.List // of *entry[K, V], most recent first
	at    map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{limit: limit, order: list.New(), at: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(k K) (V, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.at[k]
	if !ok {
		var none V
		return none, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*entry[K, V]).value, true
}

func (l *lru[K, V]) put(k K, v V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.at[k]; ok {
		l.order.MoveToFront(e)
		return
	}
	l.at[k] = l.order.PushFront(&entry[K, V]{k, v})
	for l.order.Len() > l.limit {
		last := l.order.Back()
		l.order.Remove(last)
		delete(l.at, last.Value.(*entry[K, V]).key)
	}
}
