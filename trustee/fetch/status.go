package fetch

import (
	"context"
	"sync"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
)

// lateness is how much of what is at hand was out of date at the last look.
type lateness struct {
	mu   sync.Mutex
	late int
}

// Late gives how many documents at hand were past their next update at the last
// look, of those that have one.
func (f *Fetcher) Late() int {
	f.late.mu.Lock()
	defer f.late.mu.Unlock()
	return f.late.late
}

// look counts what is out of date, so that nobody who asks has to wait for it.
func (f *Fetcher) look(ctx context.Context) {
	for {
		n := 0
		for _, it := range f.states() {
			if it.Expired {
				n++
			}
		}
		f.late.mu.Lock()
		f.late.late = n
		f.late.mu.Unlock()
		if !sleep(ctx, min(lookEvery, f.cfg.Refresh)) {
			return
		}
	}
}

// states describes what changes and is at hand. What cannot be verified counts as
// expired: no verifier will take it.
func (f *Fetcher) states() []trusteeapi.CollateralState {
	out := []trusteeapi.CollateralState{}
	now := f.cfg.Now()
	for _, it := range f.cfg.Shelf.Items() {
		v := f.vendorOf(it.Origin)
		if v == nil || !v.changing(it.Origin) || v.needsIssuers(it.Origin) && len(it.Chain) == 0 {
			continue // or it was imported without those who could vouch for it
		}
		s := trusteeapi.CollateralState{Origin: it.Origin, Vendor: v.name, Fetched: it.Fetched}
		if validity, err := v.verify(it); err != nil {
			s.Expired, s.Error = true, short(err.Error())
		} else {
			s.Issued, s.Until, s.Expired = validity.Issued.UTC(), validity.Until.UTC(), now.After(validity.Until)
		}
		out = append(out, s)
	}
	return out
}

// Status tells what is at hand, what is wanted and how fetching goes.
func (f *Fetcher) Status(ctx context.Context) (*trusteeapi.CollateralStatus, error) {
	out := &trusteeapi.CollateralStatus{Vendors: []trusteeapi.CollateralVendor{}, Items: f.states(), Wanted: []trusteeapi.CollateralState{}}
	known := map[string]int{}
	for i, it := range out.Items {
		known[it.Origin] = i
	}
	err := f.cfg.Store.View(ctx, func(tx store.Tx) error {
		for _, w := range f.workers {
			l, _, err := getLease(tx, w.v.name)
			if err != nil {
				return err
			}
			place := w.base
			if place == "" {
				place = w.v.places[0]
			}
			out.Vendors = append(out.Vendors, trusteeapi.CollateralVendor{Name: w.v.name, Place: place, Next: l.Next, Failures: l.Failures, Error: l.Error})
			for _, o := range w.v.standing {
				if _, ok := known[o]; !ok {
					known[o] = len(out.Items)
					out.Items = append(out.Items, trusteeapi.CollateralState{Origin: o, Vendor: w.v.name, Missing: true})
				}
			}
		}
		all, err := store.List[document](tx, documents)
		if err != nil {
			return err
		}
		for _, d := range all {
			if d.Wanted {
				s := trusteeapi.CollateralState{Origin: d.Origin, Vendor: f.vendorName(d.Origin), Missing: true, Since: d.Since}
				attempt(&s, d)
				out.Wanted = append(out.Wanted, s)
			} else if i, ok := known[d.Origin]; ok {
				attempt(&out.Items[i], d)
			}
		}
		return nil
	})
	return out, err
}

func attempt(s *trusteeapi.CollateralState, d document) {
	s.Tried, s.Next, s.Failures, s.Outcome = d.Tried, d.Next, d.Failures, d.Outcome
	if s.Error == "" {
		s.Error = d.Error
	}
}

func (f *Fetcher) vendorName(origin string) string {
	if v := f.vendorOf(origin); v != nil {
		return v.name
	}
	return ""
}
