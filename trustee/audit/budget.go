package audit

import (
	"sync"
	"time"
)

// Refusals may use so many bytes at once and so many per second: a flood costs
// at most 35 MB of disk a day.
const (
	denialBurst = 1 << 20
	denialRate  = 400
)

// budget is a token bucket of bytes.
type budget struct {
	mu     sync.Mutex
	left   float64
	at     time.Time
	missed uint64
}

func newBudget(now time.Time) *budget { return &budget{left: denialBurst, at: now} }

// take spends n bytes. It gives the number of refusals that went unrecorded
// since the last one that was.
func (b *budget) take(now time.Time, n int64) (ok bool, missed uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.left = min(denialBurst, b.left+d*denialRate)
		b.at = now
	}
	if b.left < float64(n) {
		b.missed++
		return false, 0
	}
	b.left -= float64(n)
	missed, b.missed = b.missed, 0
	return true, missed
}

// takeMissed gives the number of refusals that went unrecorded, once.
func (b *budget) takeMissed() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.missed
	b.missed = 0
	return n
}

// giveBack says that one more refusal than missed went unrecorded: the disk failed.
func (b *budget) giveBack(missed uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.missed += missed + 1
}
