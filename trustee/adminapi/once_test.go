package adminapi

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/limits"
)

func numbered(n int) (id tokenID) {
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return id
}

func TestOnceOnly(t *testing.T) {
	const most = 10
	o := newOnceOnly(most)
	now := time.Unix(1_000_000, 0)
	use := func(key string, n int, end time.Time) (bool, error) { return o.use(key, numbered(n), end, now) }
	for i := range most / 2 {
		if fresh, err := use("a", i, now.Add(time.Minute)); !fresh || err != nil {
			t.Fatalf("token %d: %v, %v", i, fresh, err)
		}
		if fresh, err := use("a", i, now.Add(2*time.Minute)); fresh || err != nil {
			t.Errorf("token %d a second time: %v, %v", i, fresh, err)
		}
	}
	var full *limits.Error
	if fresh, err := use("a", 100, now.Add(time.Minute)); fresh || !errors.As(err, &full) || full.Name != limits.AdminTokens {
		t.Errorf("a key beyond its half: %v, %v", fresh, err)
	}
	for i := range most / 2 { // another's half is its own
		if fresh, err := use("b", 200+i, now.Add(3*time.Minute)); !fresh || err != nil {
			t.Fatalf("token %d of b: %v, %v", i, fresh, err)
		}
	}
	if fresh, err := use("c", 300, now.Add(time.Minute)); fresh || !errors.As(err, &full) {
		t.Errorf("beyond all: %v, %v", fresh, err)
	}
	if fresh, err := use("a", 0, now.Add(time.Minute)); fresh || err != nil {
		t.Errorf("a full table forgot: %v, %v", fresh, err)
	}
	// Nothing is forgotten before it has ended.
	now = now.Add(time.Minute - time.Second)
	if fresh, err := use("a", 1, now); fresh || err != nil {
		t.Errorf("a second before the end: %v, %v", fresh, err)
	}
	now = now.Add(time.Minute + 2*time.Second)
	if fresh, err := use("a", 400, now.Add(time.Minute)); !fresh || err != nil {
		t.Errorf("after those of a have ended: %v, %v", fresh, err)
	}
	if fresh, err := use("b", 200, now.Add(time.Minute)); fresh || err != nil {
		t.Errorf("b's, that live on: %v, %v", fresh, err)
	}
	if o.count != most/2+1 || o.of["a"] != 1 || o.of["b"] != most/2 {
		t.Errorf("%d tokens, %v", o.count, o.of)
	}
	now = now.Add(time.Hour)
	if fresh, err := use("d", 500, now.Add(time.Minute)); !fresh || err != nil || o.count != 1 || len(o.of) != 1 || len(o.ends) != 1 {
		t.Errorf("an hour later: %v, %v; %d, %v", fresh, err, o.count, o.of)
	}
}
