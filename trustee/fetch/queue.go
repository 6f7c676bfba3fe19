package fetch

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/ratelimit"
	"github.com/cofferproject/coffer/trustee/store"
)

// Bounds of what peers can cause. Evidence without its certificate proves nothing
// yet, so anybody can name a chip: that costs him no more than places in a queue
// from which peers are served in turn.
const (
	waiting       = 64             // wants that are not in the store yet
	maxWanted     = 1024           // rows
	maxOfPeer     = 32             // rows of one network address
	maxOfGroup    = 32             // documents of one chip that are wanted, or were got in the last day
	maxKept       = 10_000         // documents that were or are wanted: half of what the shelf has room for
	forget        = 24 * time.Hour // after which a row goes that came to nothing
	peerRate      = 1.0 / 10       // wants a second of one network address, on the long run
	peerBurst     = 16             //
	rememberPeers = 10_000         // buckets; twice that at most
)

type want struct {
	origin, group, peer string
	issuers             []byte // in PEM; nil: the origin or the answer tells them
}

// Missed hears of a denial. What a verifier missed is wanted, if it may be asked
// for. It costs no more than a look at memory and never waits.
func (f *Fetcher) Missed(r *trusteeapi.Record, d *denial.Denial) {
	if d.Reason == verify.ReasonCollateralMissing && r.Kind == "attest" {
		f.missed(d.Source, nil, r.Peer)
	}
}

// MissedBy hears of what a verifier missed of evidence that a peer has brought, whether
// it denied that or not. As Missed it never waits.
func (f *Fetcher) MissedBy(peer string, m verify.Missing) {
	if len(f.workers) > 0 {
		f.missed(m.Origin, m.Issuers, peer)
	}
}

func (f *Fetcher) missed(origin string, issuers []*x509.Certificate, from string) {
	for _, w := range f.workers {
		group, ok := w.v.wanted(origin)
		if !ok || w.v.needsIssuers(origin) != (len(issuers) > 0) {
			continue
		}
		peer := ratelimit.Peer(from)
		if f.known.has(origin, f.cfg.Now()) {
			return // it is on its way: who comes again pays nothing
		}
		if ok, _ := f.peers.Take(peer); !ok {
			return
		}
		select {
		case f.wants <- want{origin, group, peer, issuersPEM(issuers)}:
			f.known.add(origin, f.cfg.Now())
		default: // others come too fast; the next try asks again
		}
		return
	}
}

func issuersPEM(chain []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range chain {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer takes all
	}
	return b.Bytes()
}

// administrator stands for whoever may change collateral, in the place of a peer.
const administrator = "administrator"

// Want takes an administrator's wish for a document that no evidence has asked for
// yet.
func (f *Fetcher) Want(ctx context.Context, origin string) error {
	for _, w := range f.workers {
		if group, ok := w.v.wanted(origin); ok && !w.v.needsIssuers(origin) {
			if f.has(origin) {
				return nil
			}
			queued, err := f.renew(ctx, origin)
			if err == nil && !queued {
				queued, err = f.want(ctx, want{origin: origin, group: group, peer: administrator})
			}
			if err == nil && !queued && !f.has(origin) {
				err = fmt.Errorf("%w: as much is wanted as there is room for", ErrNotWanted)
			}
			f.wakeAll()
			return err
		}
	}
	return fmt.Errorf("%w: %.200q is no chip's certificate, platform's TCB information or device's manifest of a vendor that is fetched from", ErrNotWanted, origin)
}

// ErrNotWanted says that an origin is not fetched.
var ErrNotWanted = errors.New("collateral is not fetched")

func (f *Fetcher) has(origin string) bool { _, ok := f.cfg.Shelf.Get(origin); return ok }

// renew has what is wanted already tried at once, whatever came of it before.
func (f *Fetcher) renew(ctx context.Context, origin string) (queued bool, err error) {
	err = f.cfg.Store.Update(ctx, func(tx store.Tx) error {
		d, ok, err := store.GetJSON[document](tx, documents, origin)
		if queued = ok && d.Wanted; err != nil || !queued {
			return err
		}
		d.Next, d.Since = time.Time{}, f.cfg.Now().UTC()
		return store.PutJSON(tx, documents, origin, d)
	})
	return queued, err
}

func (f *Fetcher) wakeAll() {
	for _, w := range f.workers {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// recent remembers what was wanted a short time ago.
type recent struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (r *recent) has(origin string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.at[origin]
	return ok && now.Sub(t) < rememberWant
}

func (r *recent) add(origin string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == nil || len(r.at) >= maxWanted {
		r.at = map[string]time.Time{}
	}
	r.at[origin] = now
}

// rememberWant is short: what found no room may be asked for again.
const rememberWant = 30 * time.Second

// Soon says when what a verifier missed may be at hand, of what is fetched; 0:
// nobody knows.
func (f *Fetcher) Soon(d *denial.Denial) time.Duration {
	if d.Reason != verify.ReasonCollateralMissing {
		return 0
	}
	for _, w := range f.workers {
		if _, ok := w.v.wanted(d.Source); ok || slices.Contains(w.v.standing, d.Source) {
			return min(max(w.pace, time.Second), maxSoon)
		}
	}
	return 0
}

// maxSoon is the longest that a guest is asked to wait before it tries again.
const maxSoon = 30 * time.Second

// keepWants puts wants into the store, where whoever holds the lease finds them.
func (f *Fetcher) keepWants(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-f.wants:
			taken, err := f.want(ctx, n)
			if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrUnavailable) {
				f.cfg.Log.Error("keeping what collateral is wanted failed", "error", err)
			}
			if !taken {
				continue
			}
			f.wakeAll()
		}
	}
}

// want makes a row, unless one bound or another is reached.
func (f *Fetcher) want(ctx context.Context, n want) (taken bool, err error) {
	// What is wanted already, or cannot be, costs no write.
	if err := f.cfg.Store.View(ctx, func(tx store.Tx) error {
		taken, err = f.fits(tx, n)
		return err
	}); err != nil || !taken {
		return false, err
	}
	// Another replica may have got it meanwhile.
	if err := f.cfg.Shelf.Refresh(ctx); err != nil {
		return false, err
	}
	err = f.cfg.Store.Update(ctx, func(tx store.Tx) error {
		if taken, err = f.fits(tx, n); err != nil || !taken {
			return err
		}
		return store.PutJSON(tx, documents, n.origin, &document{Origin: n.origin, Wanted: true, Group: n.group, Peer: n.peer, Since: f.cfg.Now().UTC(), Issuers: n.issuers})
	})
	return taken, err
}

// fits says whether there is room for one more want, of this peer and group.
func (f *Fetcher) fits(tx store.Tx, n want) (bool, error) {
	have, ok, err := store.GetJSON[document](tx, documents, n.origin)
	if err != nil || ok && have.Wanted && !otherIssuers(have, n) || f.current(n.origin) {
		return false, err
	}
	all, err := store.List[document](tx, documents)
	if err != nil {
		return false, err
	}
	wanted, ofPeer, ofGroup, kept := 0, 0, 0, 0
	for i := range all {
		if !all[i].Wanted {
			continue
		}
		wanted++
		if all[i].Peer == n.peer {
			ofPeer++
		}
		if all[i].Group == n.group {
			ofGroup++
		}
	}
	v := f.vendorOf(n.origin)
	for _, it := range f.cfg.Shelf.Items() {
		g, ok := v.wanted(it.Origin)
		if !ok {
			continue
		}
		kept++
		if g == n.group && f.cfg.Now().Sub(it.Fetched) < forget {
			ofGroup++
		}
	}
	if n.peer == administrator {
		return wanted < maxWanted, nil
	}
	return wanted < maxWanted && ofPeer < maxOfPeer && ofGroup < maxOfGroup && kept+wanted < maxKept, nil
}

// otherIssuers says whether a document was refused that another verifier, of another
// namespace with other roots, wants of other issuers: nobody's keep those of somebody
// else away.
func otherIssuers(have *document, n want) bool {
	return len(n.issuers) > 0 && have.Outcome == OutcomeRefused && !bytes.Equal(have.Issuers, n.issuers)
}

// current reports whether a document is at hand, and good for now as far as fetching
// can tell. One that has issues is wanted too where it is past its time: an import
// that nobody keeps current.
func (f *Fetcher) current(origin string) bool {
	it, ok := f.cfg.Shelf.Get(origin)
	if !ok {
		return false
	}
	v := f.vendorOf(origin)
	if v == nil || !v.needsIssuers(origin) || len(it.Chain) > 0 {
		return true
	}
	return false
}

// next chooses of wanted rows: a peer at random, of its rows the oldest.
func next(rows []document) *document {
	oldest := map[string]*document{}
	var peers []string
	for i := range rows {
		r := &rows[i]
		o := oldest[r.Peer]
		if o == nil {
			peers = append(peers, r.Peer)
		}
		if o == nil || r.Since.Before(o.Since) {
			oldest[r.Peer] = r
		}
	}
	if len(peers) == 0 {
		return nil
	}
	return oldest[peers[below(int64(len(peers)))]]
}
