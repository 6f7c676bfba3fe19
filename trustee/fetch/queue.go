package fetch

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
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
	maxOfGroup    = 32             // documents of one chip, kept and wanted
	forget        = 24 * time.Hour // after which a row goes: until then it is not asked for anew
	peerRate      = 1.0 / 60       // wants a second of one network address, on the long run
	peerBurst     = 16             //
	rememberPeers = 10_000         // buckets; twice that at most
)

type want struct{ origin, group, peer string }

// Missed hears of a denial. What a verifier missed is wanted, if it may be asked
// for. It costs no more than a look at memory and never waits.
func (f *Fetcher) Missed(r *trusteeapi.Record, d *denial.Denial) {
	if len(f.workers) == 0 || d.Reason != verify.ReasonCollateralMissing || r.Kind != "attest" {
		return
	}
	for _, w := range f.workers {
		group, ok := w.v.wanted(d.Source)
		if !ok {
			continue
		}
		peer := ratelimit.Peer(r.Peer)
		if ok, _ := f.peers.Take(peer); !ok {
			return
		}
		select {
		case f.wants <- want{d.Source, group, peer}:
		default: // others come too fast; the next try asks again
		}
		return
	}
}

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
			for _, w := range f.workers {
				select {
				case w.wake <- struct{}{}:
				default:
				}
			}
		}
	}
}

// want makes a row, unless one bound or another is reached.
func (f *Fetcher) want(ctx context.Context, n want) (taken bool, err error) {
	err = f.cfg.Store.Update(ctx, func(tx store.Tx) error {
		taken = false
		have, ok, err := store.GetJSON[document](tx, documents, n.origin)
		if err != nil || ok && have.Wanted {
			return err
		}
		all, err := store.List[document](tx, documents)
		if err != nil {
			return err
		}
		wanted, ofPeer, ofGroup := 0, 0, 0
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
		if v := vendorOf(n.origin); v != nil {
			for _, it := range f.cfg.Shelf.Items() {
				if g, ok := v.wanted(it.Origin); ok && g == n.group {
					ofGroup++
				}
			}
		}
		if wanted >= maxWanted || ofPeer >= maxOfPeer || ofGroup >= maxOfGroup {
			return nil
		}
		taken = true
		return store.PutJSON(tx, documents, n.origin, &document{Origin: n.origin, Wanted: true, Group: n.group, Peer: n.peer, Since: f.cfg.Now().UTC()})
	})
	return taken, err
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
	return oldest[peers[rand.IntN(len(peers))]]
}
