package revocation

import "sync"

// maxCached bounds a cache; when it is full it starts anew.
const maxCached = 1024

// Cache keeps what was made from bytes that are named by their hash. Failures
// are not kept. The zero value is ready; it is safe for concurrent use.
type Cache[K comparable, V any] struct {
	mu sync.RWMutex
	m  map[K]V
}

// Get gives the value of a key, and makes it if it is not there.
func (c *Cache[K, V]) Get(key K, newValue func() (V, error)) (V, error) {
	c.mu.RLock()
	v, ok := c.m[key]
	c.mu.RUnlock()
	if ok {
		return v, nil
	}
	v, err := newValue()
	if err != nil {
		return v, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxCached {
		c.m = map[K]V{}
	}
	c.m[key] = v
	return v, nil
}
