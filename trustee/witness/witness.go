// Package witness sends signed checkpoints of the audit log (api/auditlog/SPEC.md) to
// those who keep them elsewhere: syslog receivers and webhooks.
//
// Invariants: Publish never waits; what is kept for a receiver is bounded, and of too
// much the oldest goes, since a later checkpoint vouches for all before it; a receiver
// that is required and has not acknowledged is an error of Check, from the start on.
//
// Trust zone: trustee. What a receiver answers is untrusted and only a sign of life.
package witness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
)

const (
	maxQueue    = 256 // checkpoints that wait for one receiver
	maxWitness  = 16
	sendTime    = 10 * time.Second // for one attempt
	maxBackoff  = time.Minute
	leastSecret = 32 // bytes of an HMAC key
)

// ErrBehind says that too many checkpoints are unacknowledged.
var ErrBehind = errors.New("a witness of the audit log has not acknowledged its checkpoints")

// receiver takes one checkpoint, and gives nil if it has it.
type receiver interface {
	send(ctx context.Context, c auditlog.Signed) error
	String() string // without secrets
}

// Config makes a Set.
type Config struct {
	Targets []Target
	// Required is the number of unacknowledged checkpoints at which Check fails; 0:
	// it never does.
	Required int
	Log      *slog.Logger
	// Failed, if set, hears of every attempt that failed.
	Failed func()
	// Backoff is the wait after a first failed attempt; 0: a second.
	Backoff time.Duration
}

// Set is all receivers.
type Set struct {
	cfg  Config
	all  []*sender
	stop context.CancelFunc
	done sync.WaitGroup
}

// New starts to send. An empty Config is a Set without receivers.
func New(c Config) (*Set, error) {
	switch {
	case c.Log == nil:
		return nil, errors.New("witness: log missing")
	case len(c.Targets) > maxWitness:
		return nil, fmt.Errorf("witness: %d receivers, at most %d", len(c.Targets), maxWitness)
	case c.Required < 0 || c.Required > maxQueue:
		return nil, fmt.Errorf("witness: required after %d checkpoints, at most %d", c.Required, maxQueue)
	case c.Required > 0 && len(c.Targets) == 0:
		return nil, errors.New("witness: one is required, and there is none")
	}
	if c.Backoff == 0 {
		c.Backoff = time.Second
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Set{cfg: c, stop: stop}
	for _, t := range c.Targets {
		r, err := t.receiver()
		if err != nil {
			stop()
			return nil, fmt.Errorf("witness: %w", err)
		}
		s.all = append(s.all, &sender{to: r, set: s, wake: make(chan struct{}, 1), behind: c.Required})
	}
	for _, x := range s.all {
		s.done.Go(func() { x.run(ctx) })
	}
	return s, nil
}

// Publish has a checkpoint sent.
func (s *Set) Publish(c auditlog.Signed) {
	for _, x := range s.all {
		x.add(c)
	}
}

// Check fails if a receiver is required and too far behind. Until its first
// acknowledgement it is: a restart brings no new patience.
func (s *Set) Check() error {
	if s.cfg.Required == 0 {
		return nil
	}
	for _, x := range s.all {
		if n := x.unacknowledged(); n >= s.cfg.Required {
			return fmt.Errorf("%w: %s, %d of them", ErrBehind, x.to, n)
		}
	}
	return nil
}

// Behind gives how many checkpoints the receiver that is furthest behind has not
// acknowledged.
func (s *Set) Behind() int {
	n := 0
	for _, x := range s.all {
		n = max(n, x.unacknowledged())
	}
	return n
}

// Close sends what waits, for as long as ctx allows.
func (s *Set) Close(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for s.waiting() {
		select {
		case <-ctx.Done():
			s.cfg.Log.Warn("checkpoints of the audit log stay unsent", "most", s.Behind())
			s.stop()
			s.done.Wait()
			return
		case <-tick.C:
		}
	}
	s.stop()
	s.done.Wait()
}

func (s *Set) waiting() bool {
	for _, x := range s.all {
		x.mu.Lock()
		n := len(x.queue)
		x.mu.Unlock()
		if n > 0 {
			return true
		}
	}
	return false
}

// sender brings checkpoints to one receiver.
type sender struct {
	to   receiver
	set  *Set
	wake chan struct{}

	mu     sync.Mutex
	queue  []auditlog.Signed // the oldest first
	behind int               // published since the last acknowledged one
}

func (x *sender) add(c auditlog.Signed) {
	x.mu.Lock()
	if len(x.queue) == maxQueue {
		x.queue = append(x.queue[:0], x.queue[1:]...)
	}
	x.queue = append(x.queue, c)
	x.behind++
	x.mu.Unlock()
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

func (x *sender) unacknowledged() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.behind
}

// next gives the oldest that waits.
func (x *sender) next() (auditlog.Signed, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.queue) == 0 {
		return auditlog.Signed{}, false
	}
	return x.queue[0], true
}

// acknowledged takes one from the queue: it may have gone from there meanwhile.
func (x *sender) acknowledged(c auditlog.Signed) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.queue) > 0 && x.queue[0] == c {
		x.queue = append(x.queue[:0], x.queue[1:]...)
	}
	x.behind = len(x.queue)
}

func (x *sender) run(ctx context.Context) {
	wait := x.set.cfg.Backoff
	for {
		c, ok := x.next()
		if !ok {
			select {
			case <-x.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		try, cancel := context.WithTimeout(ctx, sendTime)
		err := x.to.send(try, c)
		cancel()
		if err == nil {
			x.acknowledged(c)
			wait = x.set.cfg.Backoff
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if x.set.cfg.Failed != nil {
			x.set.cfg.Failed()
		}
		x.set.cfg.Log.Error("sending a checkpoint of the audit log failed", "witness", x.to.String(), "error", err)
		select {
		case <-time.After(wait/2 + rand.N(wait)): //nolint:gosec // jitter
		case <-ctx.Done():
			return
		}
		wait = min(2*wait, maxBackoff)
	}
}
