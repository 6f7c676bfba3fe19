package fetch

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/inteltest"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/fetch/fetchtest"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/shelf"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
)

// world is a fetcher of Intel's collateral on a day on which what Intel published
// for a machine was current.
type world struct {
	t      testing.TB
	pcs    *fetchtest.Vendor
	store  store.Store
	shelf  *shelf.Shelf
	real   *collateral.Set
	tcb    string // origin of the machine's TCB information
	began  time.Time
	day    time.Time
	mu     sync.Mutex
	ahead  time.Duration
	counts map[string]int // by outcome
}

func newWorld(t testing.TB) *world {
	t.Helper()
	st, err := bolt.Open(filepath.Join(t.TempDir(), "db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	w := &world{t: t, pcs: fetchtest.New(t), store: st, real: inteltest.Collateral(t), began: time.Now(), day: inteltest.DayV4, counts: map[string]int{}}
	for _, it := range w.real.Items() {
		if _, _, err := intel.ParseTCBInfoOrigin(it.Origin); err == nil {
			if v, err := intel.CheckPublished(it); err == nil && w.day.After(v.Issued) && w.day.Before(v.Until) {
				w.tcb = it.Origin
			}
		}
		w.pcs.Publish(it, chainHeader(it.Origin))
	}
	if w.tcb == "" {
		t.Fatal("no TCB information of that day")
	}
	root, ok := w.real.Get(intel.RootCRLOrigin())
	if !ok {
		t.Fatal("no list of the root")
	}
	w.pcs.PublishAt("/sgx/certification/v4/rootcacrl", fmt.Appendf(nil, "%x", root.Body)) // as caches do
	w.shelf = w.open()
	return w
}

func (w *world) open() *shelf.Shelf {
	w.t.Helper()
	s, err := shelf.Open(w.t.Context(), w.store, limits.Defaults(), w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.day.Add(time.Since(w.began) + w.ahead)
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead += d
}

func (w *world) config(change ...func(*Config)) Config {
	c := Config{
		Options: Options{
			Vendors: []string{"intel"}, URLs: map[string]string{"intel": w.pcs.URL}, Pace: 5 * time.Millisecond, Retry: 20 * time.Millisecond, Timeout: 500 * time.Millisecond,
		},
		Store: w.store, Shelf: w.shelf, Log: slog.New(slog.DiscardHandler), Now: w.now,
		Observe: func(_, outcome string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.counts[outcome]++
		},
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func (w *world) start(change ...func(*Config)) *Fetcher {
	w.t.Helper()
	f, _ := w.begin(change...)
	return f
}

// startUntil starts a fetcher that the test stops.
func (w *world) startUntil(change ...func(*Config)) (stop func()) {
	w.t.Helper()
	_, stop = w.begin(change...)
	return stop
}

func (w *world) begin(change ...func(*Config)) (*Fetcher, func()) {
	w.t.Helper()
	f, err := New(w.config(change...))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.Start(ctx)
	stop := func() { cancel(); f.Wait() }
	w.t.Cleanup(stop)
	return f, stop
}

func (w *world) count(outcome string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[outcome]
}

func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("in vain: %s; outcomes %v", what, w.counts)
		}
	}
}

func (w *world) has(origin string) bool { _, ok := w.shelf.Get(origin); return ok }

// missed is a denial as a verifier makes one.
func missed(f *Fetcher, origin, peer string) {
	f.Missed(&trusteeapi.Record{Kind: "attest", Peer: peer}, &denial.Denial{Reason: verify.ReasonCollateralMissing, Source: origin})
}

func (w *world) rows() []document {
	w.t.Helper()
	var out []document
	if err := w.store.View(w.t.Context(), func(tx store.Tx) (err error) {
		out, err = store.List[document](tx, documents)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return out
}

func reasonOf(err error) denial.Reason {
	if d, ok := denial.As(err); ok {
		return d.Reason
	}
	return ""
}

func base64Std(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
