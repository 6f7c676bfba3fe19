package ratelimit_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/ratelimit"
)

func TestLimiter(t *testing.T) {
	at := time.Unix(1e9, 0)
	l, err := ratelimit.New(2, 3, 100, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if ok, _ := l.Take("a"); !ok {
			t.Error("refused within the burst")
		}
	}
	if ok, wait := l.Take("a"); ok || wait != 500*time.Millisecond {
		t.Errorf("%t, %s", ok, wait)
	}
	if ok, _ := l.Take("b"); !ok {
		t.Error("one peer's doing is another's")
	}
	at = at.Add(time.Second)
	for i, want := range []bool{true, true, false} {
		if ok, _ := l.Take("a"); ok != want {
			t.Errorf("after a second, request %d: %t", i, ok)
		}
	}
	at = at.Add(-time.Hour) // a clock that jumps gives nothing away
	if ok, _ := l.Take("a"); ok {
		t.Error("the clock went back and there is more")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	l, err := ratelimit.New(1, 1, 100, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10_000 {
		l.Take(fmt.Sprint(i))
		// The one who asks all the time stays known.
		if ok, _ := l.Take("busy"); ok && i > 0 {
			t.Fatalf("forgotten at %d", i)
		}
	}
	if n := l.Keys(); n > 200 {
		t.Errorf("%d keys", n)
	}
}

func TestPeer(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1:80": "10.0.0.1", "[::ffff:10.0.0.1]:80": "10.0.0.1", "[2001:db8:1:2:3::4]:1": "2001:db8:1:2::/64", "[fe80::1%eth0]:1": "fe80::/64", "x": "unknown", "": "unknown",
	} {
		if got := ratelimit.Peer(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
