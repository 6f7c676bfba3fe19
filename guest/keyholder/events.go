package keyholder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/aapb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/eventlog"
)

// Reasons of denials about run-time events.
const (
	ReasonEventMalformed denial.Reason = "event-malformed"
	ReasonEventReserved  denial.Reason = "event-domain-reserved"
	ReasonEventRate      denial.Reason = "event-rate"
	ReasonEventLogFull   denial.Reason = "event-log-full"
)

// Limits of the event log. An event is counted as what it takes in a token, which
// has the text of every event (claim runtime_events) and must fit into a header.
const (
	maxEventCost = 15 << 10 // of the whole log, bytes of JSON; policy.MaxEventsClaim is a little more
	maxEvents    = 64
	// What the guest's own components can still record when workloads have used up
	// their part.
	guestEventCost = 5 << 10
	guestEvents    = 16
	// Workloads may record a burst of events, then one in each interval: every event
	// is an extend, and makes the next request attest anew.
	eventBurst    = 16
	eventInterval = time.Second
)

// GuestDomain is the domain of the guest's own events ("PullImage").
const GuestDomain = "github.com/confidential-containers"

// caller is who asks for an event to be recorded.
type caller int

const (
	callerGuest    caller = iota + 1 // root, on the attestation agent's socket
	callerWorkload                   // the REST server, on behalf of whoever asks it
)

// events records run-time events where initdata says so.
type events struct {
	dir      string
	pcr      int                // of events that name no register
	hash     eventlog.Algorithm // 0: the register's, whichever
	log      *slog.Logger
	recorded func() // an event was recorded
	now      func() time.Time

	mu        sync.Mutex
	register  int
	aael      *aael.Log // nil: the TEE has no register for events
	cost, n   int
	allowance int // events that workloads may record at once
	refilled  time.Time
}

// newEvents reads aa.toml's eventlog_config; nil: events are not recorded.
func newEvents(aa *initdata.AAConfig, dir string, log *slog.Logger) (*events, error) {
	if aa == nil || aa.EventlogConfig == nil || !aa.EventlogConfig.EnableEventlog {
		return nil, nil
	}
	e := &events{dir: dir, pcr: aael.DefaultPCR, log: log, recorded: func() {}, now: time.Now, allowance: eventBurst}
	if p := aa.EventlogConfig.InitPCR; p != nil {
		if *p < 0 || *p > 23 {
			return nil, fmt.Errorf("%s: init_pcr %d is not a register", initdata.KeyAA, *p)
		}
		e.pcr = *p
	}
	if a := aa.EventlogConfig.EventlogAlgorithm; a != "" {
		var ok bool
		if e.hash, ok = eventlog.ByName(a); !ok {
			return nil, fmt.Errorf("%s: eventlog_algorithm %.60q is not known", initdata.KeyAA, a)
		}
	}
	return e, nil
}

// open opens the log of an attester before it makes any evidence. A TEE that
// cannot record events attests without; a log that does not explain its register
// is an error, since no evidence would be accepted.
func (e *events) open(ctx context.Context, a Attester) error {
	r, ok := a.(attest.Recorder)
	if !ok {
		e.log.Warn("run-time events are not supported: this TEE has no register for them", "tee", a.TEE())
		return nil
	}
	register, index := r.EventRegister()
	if got, err := r.Register(e.pcr); err != nil || got != register {
		e.log.Warn("run-time events are not supported: the register of init_pcr takes none", "tee", a.TEE(), "init_pcr", e.pcr, "err", err)
		return nil
	}
	if alg, _ := eventlog.ByName(r.Hash()); e.hash != 0 && e.hash != alg {
		e.log.Warn("run-time events are not supported: eventlog_algorithm is not the register's", "tee", a.TEE(), "want", alg)
		return nil
	}
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return fmt.Errorf("event log: %w", err)
	}
	l, err := aael.Open(ctx, e.dir, aael.Options{Extender: r, FirstIndex: index - uint32(register), Own: []int{register}})
	if err != nil {
		return err
	}
	b, err := l.Bytes()
	var entries []aael.Entry
	if err == nil {
		alg, _ := eventlog.ByName(r.Hash()) // known to Open
		entries, err = aael.Parse(b, alg)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("event log: %w", err), l.Close())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range entries {
		e.n++
		e.cost += eventCost(&entries[i].Event)
	}
	r.Record(l.Bytes)
	e.aael, e.register = l, register
	return nil
}

// eventCost is how long the event is in the claim, with its comma.
func eventCost(ev *aael.Event) int {
	text, err := ev.Text()
	if err != nil {
		return maxEventCost
	}
	b, err := json.Marshal(text)
	if err != nil {
		return maxEventCost
	}
	return len(b) + 1
}

func (e *events) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.aael == nil {
		return nil
	}
	return e.aael.Close()
}

// extend records one event. register, if given, is a PCR's number.
func (e *events) extend(ctx context.Context, from caller, ev aael.Event, register *uint64) (aapb.RuntimeMeasurementResult, error) {
	pcr := e.pcr
	if register != nil {
		if *register > 23 {
			return aapb.RuntimeMeasurementResult_NOT_SUPPORTED, nil
		}
		pcr = int(*register)
	}
	if _, err := ev.Text(); err != nil {
		return 0, &denial.Denial{Reason: ReasonEventMalformed, Component: Component, Claim: "run-time event", Detail: err.Error()}
	}
	if from == callerWorkload && ev.Domain == GuestDomain {
		return 0, &denial.Denial{
			Reason: ReasonEventReserved, Component: Component, Claim: "run-time event", Measured: ev.Domain, Expected: "another domain",
			Source: "events of the guest itself",
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.aael == nil {
		return aapb.RuntimeMeasurementResult_NOT_SUPPORTED, nil
	}
	if err := e.admit(from, &ev); err != nil {
		return 0, err
	}
	err := e.record(ctx, pcr, ev)
	switch {
	case errors.Is(err, attest.ErrUnsupported):
		e.log.Warn("run-time event not recorded", "pcr", pcr, "err", err)
		return aapb.RuntimeMeasurementResult_NOT_SUPPORTED, nil
	case err != nil:
		e.log.Error("run-time event not recorded", "pcr", pcr, "err", err)
		return 0, err
	}
	return aapb.RuntimeMeasurementResult_OK, nil
}

// record is called with the lock held. Even an event that failed may come to be
// recorded later, so it counts; a token from before it tells of it too little.
func (e *events) record(ctx context.Context, pcr int, ev aael.Event) error {
	if r, err := e.aael.Register(pcr); err != nil || r != e.register {
		return fmt.Errorf("PCR %d: %w", pcr, errors.Join(attest.ErrUnsupported, err))
	}
	e.n++
	e.cost += eventCost(&ev)
	defer e.recorded()
	// Who asks may hang up; what is begun is brought to its end.
	return e.aael.Extend(context.WithoutCancel(ctx), pcr, ev)
}

// admit says whether an event still fits, before anything is extended.
func (e *events) admit(from caller, ev *aael.Event) error {
	n, cost := maxEvents, maxEventCost
	if from == callerWorkload {
		n, cost = n-guestEvents, cost-guestEventCost
		if !e.allowed() {
			return &denial.Denial{
				Reason: ReasonEventRate, Component: Component, Claim: "run-time events", Measured: "more",
				Expected: fmt.Sprintf("%d at once, then one in %v", eventBurst, eventInterval), Source: "the guest's limits",
			}
		}
	}
	if c := eventCost(ev); e.n+1 > n || e.cost+c > cost {
		return &denial.Denial{
			Reason: ReasonEventLogFull, Component: Component, Claim: "run-time events",
			Measured: fmt.Sprintf("%d events, %d bytes of claims", e.n+1, e.cost+c), Expected: fmt.Sprintf("at most %d, %d bytes", n, cost), Source: "the guest's limits",
		}
	}
	return nil
}

// allowed takes one from what workloads may record now.
func (e *events) allowed() bool {
	now := e.now()
	if n := int(now.Sub(e.refilled) / eventInterval); n > 0 {
		e.allowance, e.refilled = min(eventBurst, e.allowance+n), now
	}
	if e.allowance == 0 {
		return false
	}
	e.allowance--
	return true
}
