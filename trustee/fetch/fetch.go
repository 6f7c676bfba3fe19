// Package fetch gets collateral from its vendors, ahead of time and in the
// background: AMD's Key Distribution Service (VCEK certificates, revocation
// lists), Intel's Provisioning Certification Service or a cache of it (TCB
// information, identities, revocation lists), NVIDIA's services (manifests,
// revocation lists, OCSP responses) and TPM makers' revocation lists. It is off until
// a vendor is named.
//
// What verifiers missed is wanted, and got soon: so the guest's next try succeeds.
// No request waits for any of this.
//
// Invariants: a request costs a look at memory; what is asked for is an origin of
// a vendor that is switched on, in its canonical spelling, and goes to the
// configured place alone; nothing is kept whose signatures were not checked, and
// no older issue in the place of a newer one; of all replicas one asks a vendor at
// a time, never faster than its pace, and what a vendor answers (429, errors,
// silence) slows all of them; queue and documents are bounded.
//
// Trust zone: trustee.
package fetch

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cofferproject/coffer/trustee/ratelimit"
	"github.com/cofferproject/coffer/trustee/shelf"
	"github.com/cofferproject/coffer/trustee/store"
)

// Outcomes of a request to a vendor, as metrics name them.
const (
	OutcomeFetched   = "fetched"
	OutcomeUnchanged = "unchanged"
	OutcomeAbsent    = "absent"  // the vendor knows no such document
	OutcomeLimited   = "limited" // 429
	OutcomeFailed    = "failed"  // no answer, or an error of the vendor's
	OutcomeRefused   = "refused" // an answer that cannot be believed, or that there is no room for
)

// Outcomes lists all.
var Outcomes = []string{OutcomeFetched, OutcomeUnchanged, OutcomeAbsent, OutcomeLimited, OutcomeFailed, OutcomeRefused}

// Options say what is fetched, and from where.
type Options struct {
	// Vendors that are switched on, of VendorNames; none: nothing is fetched.
	Vendors []string
	// URLs, by vendor, are places that serve what the vendor does, such as a cache
	// of Intel's; missing: the vendor's own.
	URLs map[string]string
	// Proxy is the URL of an HTTP proxy; "": none, whatever the environment says.
	Proxy string
	// CAFile (PEM) is who vouches for the places of URLs, in the place of the
	// system's certificates, and beside those for the vendors' own; "": the system's.
	CAFile string
	// Pace is the least time between two requests to one vendor; 0: what the vendor
	// is known to bear.
	Pace time.Duration
	// Refresh is how often what changes is asked for; 0: a day. It is asked for
	// earlier where it ends earlier.
	Refresh time.Duration
	// Timeout bounds one request; 0: 20 seconds.
	Timeout time.Duration
	// Retry is the shortest wait after an error; it doubles up to an hour. 0: 30
	// seconds.
	Retry time.Duration
	// TPMHosts are hosts of TPMs' makers beside the known ones (TPMHosts of this
	// package) from which lists are got that endorsement certificates name.
	TPMHosts []string

	nvidiaDevices, nvidiaManifests []*x509.Certificate // for tests: roots in the place of NVIDIA's
}

// Config makes a Fetcher.
type Config struct {
	Options
	Store store.Store
	Shelf *shelf.Shelf
	Log   *slog.Logger
	Now   func() time.Time
	// Observe, if set, hears the outcome of every request to a vendor.
	Observe func(vendor, outcome string)
}

const (
	defaultRefresh = 24 * time.Hour
	defaultTimeout = 20 * time.Second
	defaultRetry   = 30 * time.Second
	maxBackoff     = time.Hour
	maxRetryAfter  = 24 * time.Hour
	absentFor      = 5 * time.Minute // AMD's service has not known chips for hours that it knew before
	maxAbsent      = 6 * time.Hour
	idle           = 5 * time.Second // between looks at the store
	lookEvery      = time.Minute     // between looks for what is out of date
)

// Fetcher fetches. It is safe for concurrent use.
type Fetcher struct {
	cfg     Config
	holder  string    // of leases
	vendors []*vendor // all, also those that are not switched on
	workers []*worker
	peers   *ratelimit.Limiter
	wants   chan want
	known   recent
	tasks   sync.WaitGroup
	late    lateness
}

// New refuses options that contradict each other.
func New(c Config) (*Fetcher, error) {
	if c.Store == nil || c.Shelf == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("fetch: a part of the configuration is missing")
	}
	if c.Pace < 0 || c.Refresh < 0 || c.Timeout < 0 || c.Retry < 0 {
		return nil, errors.New("fetch: a time is negative")
	}
	for to, byDefault := range map[*time.Duration]time.Duration{&c.Refresh: defaultRefresh, &c.Timeout: defaultTimeout, &c.Retry: defaultRetry} {
		if *to == 0 {
			*to = byDefault
		}
	}
	f := &Fetcher{cfg: c, wants: make(chan want, waiting)}
	var id [16]byte
	rand.Read(id[:])
	f.holder = hex.EncodeToString(id[:])
	var err error
	if f.peers, err = ratelimit.New(peerRate, peerBurst, rememberPeers, c.Now); err != nil {
		return nil, err
	}
	if f.vendors, err = vendorsOf(c.Options); err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	seen := map[string]bool{}
	for _, name := range c.Vendors {
		v := f.vendorNamed(name)
		if v == nil || seen[name] {
			return nil, fmt.Errorf("fetch: vendor %.40q: not known, or named twice; there are %v", name, VendorNames())
		}
		seen[name] = true
		w, err := newWorker(f, v)
		if err != nil {
			return nil, fmt.Errorf("fetch: %s: %w", name, err)
		}
		f.workers = append(f.workers, w)
	}
	for name := range c.URLs {
		if !seen[name] {
			return nil, fmt.Errorf("fetch: a place for %.40q, from which nothing is fetched", name)
		}
	}
	if len(c.TPMHosts) > 0 && !seen["tpm"] {
		return nil, errors.New("fetch: hosts of TPMs' makers, and nothing is fetched from them: vendor tpm")
	}
	if len(f.workers) == 0 && (c.Proxy != "" || c.CAFile != "") {
		return nil, errors.New("fetch: a proxy or a CA, and no vendor to fetch from")
	}
	return f, nil
}

// Start begins the work, until ctx ends; Wait waits for that.
func (f *Fetcher) Start(ctx context.Context) {
	f.tasks.Go(func() { f.look(ctx) })
	if len(f.workers) == 0 {
		return
	}
	f.tasks.Go(func() { f.keepWants(ctx) })
	for _, w := range f.workers {
		f.tasks.Go(func() { w.run(ctx) })
	}
}

// Wait returns when all work has ended.
func (f *Fetcher) Wait() { f.tasks.Wait() }

// worker asks one vendor.
type worker struct {
	f      *Fetcher
	v      *vendor
	base   string // "": the vendor's own places
	pace   time.Duration
	client *client
	wake   chan struct{}
}

func newWorker(f *Fetcher, v *vendor) (*worker, error) {
	w := &worker{f: f, v: v, pace: v.pace, wake: make(chan struct{}, 1)}
	if f.cfg.Pace > 0 {
		w.pace = f.cfg.Pace
	}
	var err error
	if u := f.cfg.URLs[v.name]; u != "" {
		if w.base, err = placeOf(u); err != nil {
			return nil, err
		}
	}
	w.client, err = newClient(f.cfg.Options, w.base == "")
	return w, err
}

func (w *worker) run(ctx context.Context) {
	for {
		wait := w.step(ctx)
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-w.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// step asks for one document if one is due and gives how long to wait then.
func (w *worker) step(ctx context.Context) time.Duration {
	j, wait, err := w.claim(ctx)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, store.ErrUnavailable) {
			w.f.cfg.Log.Error("choosing collateral to fetch failed", "vendor", w.v.name, "error", err)
		}
		return idle
	}
	if j == nil {
		return wait
	}
	a := w.ask(ctx, j)
	if ctx.Err() != nil {
		return 0 // the lease ends by itself
	}
	if w.f.cfg.Observe != nil {
		w.f.cfg.Observe(w.v.name, a.outcome)
	}
	if a.err != nil {
		w.f.cfg.Log.Warn("fetching collateral failed", "vendor", w.v.name, "origin", j.origin, "outcome", a.outcome, "error", a.err)
	}
	if err := w.settle(ctx, j, a); err != nil {
		w.f.cfg.Log.Error("keeping the outcome of a fetch failed", "vendor", w.v.name, "origin", j.origin, "error", err)
		return idle
	}
	return w.pace
}

// answer is what came of one request.
type answer struct {
	outcome string
	err     error
	until   time.Time     // of what is at hand now
	after   time.Duration // that the vendor wants to be left alone
}

// ask gets one document, checks and keeps it.
func (w *worker) ask(ctx context.Context, j *job) answer {
	// What was imported or got by another replica meanwhile counts.
	if err := w.f.cfg.Shelf.Refresh(ctx); err != nil {
		return answer{outcome: OutcomeFailed, err: err}
	}
	if j.row.Wanted && !w.v.changing(j.origin) && w.f.has(j.origin) {
		return answer{outcome: OutcomeUnchanged}
	}
	it, a := w.get(ctx, j.origin, w.issuers(j))
	if a.outcome == OutcomeAbsent && w.v.other != nil {
		// Old reports do not name their product line. Pacing holds between these too.
		if o, ok := w.v.other(j.origin); ok {
			if !sleep(ctx, w.pace) {
				return answer{outcome: OutcomeFailed, err: ctx.Err()}
			}
			if it, a = w.get(ctx, o, nil); a.outcome == "" {
				j.origin = o
			}
		}
	}
	if a.outcome != "" {
		return a
	}
	v, err := w.v.verify(it)
	now := w.f.cfg.Now()
	switch {
	case err != nil:
		return answer{outcome: OutcomeRefused, err: err}
	case now.After(v.Until):
		return answer{outcome: OutcomeRefused, err: fmt.Errorf("it was valid until %s", v.Until.UTC().Format(time.RFC3339))}
	case v.Issued.After(now.Add(maxAhead)):
		return answer{outcome: OutcomeRefused, err: fmt.Errorf("it is issued at %s", v.Issued.UTC().Format(time.RFC3339))}
	}
	if have, ok := w.f.cfg.Shelf.Get(it.Origin); ok {
		// What is at hand was perhaps imported and cannot be read: then it gives way.
		old, err := w.v.verify(have)
		if err == nil && v.Issued.Before(old.Issued) {
			return answer{outcome: OutcomeRefused, err: errors.New("it is older than what is at hand")}
		}
		if err == nil && have.Digest() == it.Digest() {
			return answer{outcome: OutcomeUnchanged, until: v.Until}
		}
	}
	if err := w.f.keep(ctx, it); err != nil {
		return answer{outcome: OutcomeRefused, err: err}
	}
	return answer{outcome: OutcomeFetched, until: v.Until}
}

// issuers gives the issuer chain of what comes without: as the verifier gave it that
// missed the document, or as it is at hand with an earlier issue.
func (w *worker) issuers(j *job) []byte {
	if !w.v.needsIssuers(j.origin) {
		return nil
	}
	if len(j.row.Issuers) > 0 {
		return j.row.Issuers
	}
	if it, ok := w.f.cfg.Shelf.Get(j.origin); ok {
		return it.Chain
	}
	return nil
}

// maxAhead is how far ahead of the trustee's clock a vendor's may be.
const maxAhead = 5 * time.Minute

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
