package fetch

import (
	"context"
	"crypto/rand"
	"errors"
	"math/big"
	"slices"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/trustee/store"
)

const (
	documents = "collateral-fetch"         // by origin
	leases    = "collateral-fetch-vendors" // by vendor
)

// document is what is known of fetching one.
type document struct {
	Origin   string    `json:"origin"`
	Wanted   bool      `json:"wanted,omitempty"` // a verifier missed it
	Group    string    `json:"group,omitempty"`
	Peer     string    `json:"peer,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Tried    time.Time `json:"tried,omitzero"`
	Next     time.Time `json:"next,omitzero"`
	Failures int       `json:"failures,omitempty"`
	Outcome  string    `json:"outcome,omitempty"`
	Error    string    `json:"error,omitempty"`
	// Issuers are the document's, in PEM, of a vendor that does not tell them.
	Issuers []byte `json:"issuers,omitempty"`
}

// lease is all that replicas share of a vendor: who asks it now, and when it may be
// asked again.
type lease struct {
	Holder   string    `json:"holder,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	Next     time.Time `json:"next,omitzero"`
	Failures int       `json:"failures,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// job is a document that this replica has the lease to ask for.
type job struct {
	origin string
	row    document
}

// claim takes the lease of the vendor for one document that is due. Without one
// it gives how long to wait.
func (w *worker) claim(ctx context.Context) (j *job, wait time.Duration, err error) {
	now := w.f.cfg.Now()
	// Most looks find nothing to do, and a look needs no write.
	if err := w.f.cfg.Store.View(ctx, func(tx store.Tx) error {
		j, wait, err = w.choose(tx, now)
		return err
	}); err != nil || j == nil {
		return nil, wait, err
	}
	err = w.f.cfg.Store.Update(ctx, func(tx store.Tx) error {
		var err error
		if j, wait, err = w.choose(tx, now); err != nil || j == nil {
			return err
		}
		l, _, err := getLease(tx, w.v.name)
		if err != nil {
			return err
		}
		l.Holder, l.Until, l.Next = w.f.holder, now.Add(w.span()).UTC(), now.Add(w.pace).UTC()
		return store.PutJSON(tx, leases, w.v.name, l)
	})
	return j, wait, err
}

// span is longer than one job can take.
func (w *worker) span() time.Duration { return 2*w.f.cfg.Timeout + w.pace + 10*time.Second }

func getLease(tx store.Tx, vendor string) (*lease, bool, error) {
	l, ok, err := store.GetJSON[lease](tx, leases, vendor)
	if l == nil {
		l = new(lease)
	}
	return l, ok, err
}

// choose finds a document that is due: of what changes the one that is most so, or
// one that is wanted.
func (w *worker) choose(tx store.Tx, now time.Time) (*job, time.Duration, error) {
	l, _, err := getLease(tx, w.v.name)
	if err != nil {
		return nil, idle, err
	}
	if ahead(l.Until, now, w.span()) && l.Holder != w.f.holder {
		return nil, min(idle, l.Until.Sub(now)), nil
	}
	if ahead(l.Next, now, maxRetryAfter) {
		return nil, min(idle, l.Next.Sub(now)), nil
	}
	rest := 2 * max(w.f.cfg.Refresh, forget)
	all, err := store.List[document](tx, documents)
	if err != nil {
		return nil, idle, err
	}
	rows := map[string]document{}
	var wanted []document
	for _, d := range all {
		if w.f.vendorOf(d.Origin) != w.v {
			continue
		}
		rows[d.Origin] = d
		if d.Wanted && !ahead(d.Next, now, rest) {
			wanted = append(wanted, d)
		}
	}
	var due *document
	for _, o := range w.current() {
		d, ok := rows[o]
		if !ok {
			d = document{Origin: o}
		}
		if !d.Wanted && !ahead(d.Next, now, rest) && (due == nil || d.Next.Before(due.Next)) {
			due = &d
		}
	}
	// Neither keeps the other away, not even one that always fails.
	if w := next(wanted); w != nil && (due == nil || below(2) == 0) {
		due = w
	}
	if due == nil {
		return nil, idle, nil
	}
	return &job{due.Origin, *due}, 0, nil
}

// ahead says whether a time is yet to come. What is further away than anything is
// put off was written by a clock that was wrong, and does not count.
func ahead(t, now time.Time, most time.Duration) bool {
	return now.Before(t) && t.Sub(now) <= most+2*maxAhead
}

// current lists what is kept current: what stands, and what is at hand and has
// later issues.
func (w *worker) current() []string {
	out := slices.Clone(w.v.standing)
	for _, it := range w.f.cfg.Shelf.Items() {
		if w.f.vendorOf(it.Origin) != w.v || !w.v.changing(it.Origin) || slices.Contains(out, it.Origin) {
			continue
		}
		// Whose signature a later issue must have is not known of what was imported so.
		if !w.v.needsIssuers(it.Origin) || len(it.Chain) > 0 {
			out = append(out, it.Origin)
		}
	}
	return out
}

// settle keeps what came of a job, and gives the lease back.
func (w *worker) settle(ctx context.Context, j *job, a answer) error {
	now := w.f.cfg.Now()
	return w.f.cfg.Store.Update(ctx, func(tx store.Tx) error {
		l, _, err := getLease(tx, w.v.name)
		if err != nil {
			return err
		}
		if l.Holder != w.f.holder {
			return nil // it took so long that another replica went on
		}
		l.Holder, l.Until = "", time.Time{}
		// An answer that came late, or after a second request, is no leave to hurry.
		l.Next = later(l.Next, now.Add(w.pace).UTC())
		w.slow(l, a, now)
		d := j.row
		d.Tried, d.Outcome, d.Error = now.UTC(), a.outcome, ""
		if a.err != nil {
			d.Error = short(a.err.Error())
		}
		if err := errors.Join(store.PutJSON(tx, leases, w.v.name, l), w.sweep(tx, now)); err != nil {
			return err
		}
		if a.outcome == OutcomeFetched || a.outcome == OutcomeUnchanged {
			if !w.v.changing(d.Origin) {
				return tx.Delete(documents, d.Origin)
			}
			return store.PutJSON(tx, documents, d.Origin, &document{Origin: d.Origin, Tried: d.Tried, Outcome: d.Outcome, Next: w.again(now, a.until).UTC()})
		}
		d.Failures++
		d.Next = now.Add(w.rest(d, a)).UTC()
		return store.PutJSON(tx, documents, d.Origin, &d)
	})
}

// slow keeps the vendor's next request away as its answer demands.
func (w *worker) slow(l *lease, a answer, now time.Time) {
	l.Error = ""
	if a.outcome != OutcomeLimited && a.outcome != OutcomeFailed {
		l.Failures = 0
		return
	}
	l.Failures++
	l.Error = short(a.err.Error())
	wait := max(backoff(w.f.cfg.Retry, l.Failures), a.after, w.pace)
	l.Next = later(l.Next, now.Add(wait).UTC())
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// rest is how long one document is left alone. Others come before it, so that one
// which always fails does not keep them away.
func (w *worker) rest(d document, a answer) time.Duration {
	if a.outcome == OutcomeAbsent && d.Wanted {
		return jitter(min(absentFor<<min(d.Failures-1, 16), maxAbsent))
	}
	return max(backoff(w.f.cfg.Retry, d.Failures), a.after)
}

// again is when a document that is current is asked for next: well before it ends.
func (w *worker) again(now, until time.Time) time.Time {
	d := w.f.cfg.Refresh
	if left := until.Sub(now) / 2; left < d {
		d = max(left, w.f.cfg.Retry)
	}
	return now.Add(jitter(d))
}

// sweep forgets what was wanted too long ago.
func (w *worker) sweep(tx store.Tx, now time.Time) error {
	all, err := store.List[document](tx, documents)
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.Wanted && now.Sub(d.Since) > forget {
			if err := tx.Delete(documents, d.Origin); err != nil {
				return err
			}
		}
	}
	return nil
}

func backoff(least time.Duration, failures int) time.Duration {
	d := least << min(max(failures-1, 0), 16)
	if d <= 0 || d > maxBackoff {
		d = max(maxBackoff, least)
	}
	return jitter(d)
}

// jitter spreads what would else come at once: a fifth either way.
func jitter(d time.Duration) time.Duration {
	return d*4/5 + time.Duration(below(int64(d)*2/5+1))
}

// below gives a number below n that nobody can guess: turns and waits are not for
// peers to foresee.
func below(n int64) int64 {
	i, err := rand.Int(rand.Reader, big.NewInt(n))
	if err != nil {
		return 0 // crypto/rand does not fail
	}
	return i.Int64()
}

func short(s string) string {
	if len(s) > 256 {
		return s[:256]
	}
	return s
}

// keep puts a checked item on the shelf.
func (f *Fetcher) keep(ctx context.Context, it *collateral.Item) error {
	b, err := collateral.NewSet(it).Encode()
	if err != nil {
		return err
	}
	n, err := f.cfg.Shelf.Import(ctx, b)
	if err == nil && n.Taken != 1 {
		err = errors.New("what is at hand says that it was fetched later")
	}
	return err
}
