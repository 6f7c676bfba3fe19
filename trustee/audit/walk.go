package audit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
)

// A log may have more records than an answer can wait for. So a walk through one goes on
// whoever has asked for it, and who asks again later gets what came of it.

// patience is how long one request waits for a walk. A test has less.
var patience = 15 * time.Second

// keepWalk is how long a result is for somebody to come back to, once.
const keepWalk = time.Hour

// walkOf names a walk: a log as it was read, and a record of which the hash is wanted.
type walkOf struct {
	name, hash     string
	records, epoch uint64
	mark           uint64
}

// walk is one that goes on or is done.
type walk struct {
	of   walkOf
	at   atomic.Uint64 // record
	done chan struct{}

	// After done:
	ended        time.Time
	digest, mark string // hash of the record that was marked
	err          error
}

// walks has one at most that goes on: each reads all of a log.
type walks struct {
	mu  sync.Mutex
	now *walk
}

// walked follows a whole log and gives its digest and the hash of the record mark. Where
// that takes longer than a request can wait it is refused with ReasonChecking, and goes on.
func (c *Checkpointer) walked(ctx context.Context, l *Stored, mark uint64) (digest, hash string, err error) {
	of := walkOf{l.name, l.hash, l.Records, l.epoch, mark}
	w, err := c.walks.of(of, func(w *walk) {
		w.digest, w.err = l.walk(context.WithoutCancel(ctx), func(chain *auditlog.Chain) error {
			w.at.Store(chain.Seq)
			if chain.Seq == mark {
				w.mark = chain.Hash
			}
			return nil
		})
	})
	if err != nil {
		return "", "", err
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-w.done:
		c.walks.drop(w) // the next one reads anew
		return w.digest, w.mark, w.err
	case <-ctx.Done():
		return "", "", ctx.Err()
	case <-t.C:
		return "", "", refuse(ReasonChecking, "the log is being read, and is at record %d of %d: ask again", w.at.Load(), l.Records)
	}
}

func (a *walks) drop(w *walk) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.now == w {
		a.now = nil
	}
}

// of gives the walk of that name, and begins it if there is none.
func (a *walks) of(of walkOf, do func(*walk)) (*walk, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.now; w != nil {
		select {
		case <-w.done:
			// A failure is for whoever waited; the next try reads anew.
			if w.of == of && w.err == nil && time.Since(w.ended) < keepWalk {
				return w, nil
			}
		default:
			if w.of == of {
				return w, nil
			}
			return nil, refuse(ReasonChecking, "another log is being read, and is at record %d of %d: ask again", w.at.Load(), w.of.records)
		}
	}
	w := &walk{of: of, done: make(chan struct{})}
	a.now = w
	go func() {
		defer close(w.done)
		do(w)
		w.ended = time.Now()
	}()
	return w, nil
}
