package lru

import (
	"fmt"
	"sync"
	"testing"
)

func TestCacheIsBounded(t *testing.T) {
	c := New[int, string](3)
	for i := range 5 {
		c.Put(i, fmt.Sprint(i))
		c.Get(0) // used, so it stays
	}
	for i, want := range []bool{true, false, false, true, true} {
		if v, ok := c.Get(i); ok != want || ok && v != fmt.Sprint(i) {
			t.Errorf("%d: %q, %t", i, v, ok)
		}
	}
	c.Put(0, "new")
	if v, _ := c.Get(0); v != "new" || len(c.at) != 3 || c.order.Len() != 3 {
		t.Errorf("%q, %d, %d", v, len(c.at), c.order.Len())
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				c.Put((g+i)%7, "x")
				c.Get(i % 7)
			}
		})
	}
	wg.Wait()
	if len(c.at) > 3 || c.order.Len() != len(c.at) {
		t.Errorf("%d entries, %d in order", len(c.at), c.order.Len())
	}
}
