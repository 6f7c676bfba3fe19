// Package ratelimit bounds how often each of many peers may ask.
//
// Invariants: its memory is bounded however many peers there are, because the ones
// that were not seen for the longest time are forgotten; who is forgotten begins
// anew, never with less than his due.
//
// Trust zone: trustee.
package ratelimit

import (
	"errors"
	"net/netip"
	"sync"
	"time"
)

// Limiter is a token bucket for each key. It is safe for concurrent use.
type Limiter struct {
	rate, burst float64
	room        int
	now         func() time.Time

	mu       sync.Mutex
	new, old map[string]*bucket // the least recently seen are in old
}

type bucket struct {
	left float64
	at   time.Time
}

// New makes a Limiter of rate requests each second on the long run and burst at
// once, for about 2*room keys.
func New(rate, burst float64, room int, now func() time.Time) (*Limiter, error) {
	if rate <= 0 || burst < 1 || room < 1 || now == nil {
		return nil, errors.New("ratelimit: rate, burst, room or clock missing")
	}
	return &Limiter{rate: rate, burst: burst, room: room, now: now, new: map[string]*bucket{}}, nil
}

// Take takes one request of a key. Where there is none left it gives how long until
// there is.
func (l *Limiter) Take(key string) (ok bool, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	b := l.new[key]
	if b == nil {
		if b = l.old[key]; b == nil {
			b = &bucket{l.burst, now}
		}
		if len(l.new) >= l.room {
			l.new, l.old = make(map[string]*bucket), l.new
		}
		l.new[key] = b
	}
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.left, b.at = min(l.burst, b.left+d*l.rate), now
	}
	if b.left < 1 {
		return false, time.Duration((1 - b.left) / l.rate * float64(time.Second))
	}
	b.left--
	return true, 0
}

// Keys gives how many keys are remembered.
func (l *Limiter) Keys() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.new) + len(l.old)
}

// Peer gives the key of a network address: an IPv4 address, or the /64 of an IPv6
// one, since whoever has one of those has all of it.
func Peer(remote string) string {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return "unknown"
	}
	ip := a.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	p, err := ip.Prefix(64)
	if err != nil {
		return "unknown"
	}
	return p.String()
}
