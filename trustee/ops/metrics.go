package ops

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/fetch"
	"github.com/cofferproject/coffer/trustee/metrics"
	"github.com/cofferproject/coffer/trustee/secretstore"
)

const (
	scopePeer      = "peer"
	scopeNamespace = "namespace"
)

// reasons are the denials that have a line of their own; verifiers have many more,
// which count together. A test checks that docs/denials.md has them.
var reasons = []string{
	"admin-forbidden", "admin-unauthenticated", "audit-unavailable", "audit-unwitnessed", "device-missing", "initdata-mismatch", "initdata-unbound", "nonce-mismatch",
	"policy-failed", "policy-timeout", "policy-unknown", "resource-policy-denied", "secret-absent", "secret-deleted", "secret-expired", "secret-unbound",
	"session-expired", "session-invalid", "session-used", "status-unacceptable", "tee-unsupported", "token-expired", "token-invalid", "token-namespace", "verifier-fault",
}

// Metrics are what the trustee counts. docs/trustee/operations.md lists them.
type Metrics struct {
	Set *metrics.Set

	requests    *metrics.Counter
	durations   *metrics.Histogram
	limited     *metrics.Counter
	denials     *metrics.Counter
	records     *metrics.Counter
	syncs       *metrics.Counter
	failures    *metrics.Counter
	lost        *metrics.Counter
	witness     *metrics.Counter
	spans       *metrics.Counter
	refused     *metrics.Counter
	shed        *metrics.Counter
	fetches     *metrics.Counter
	secrets     *metrics.Counter
	secretTimes *metrics.Histogram
	inFlight    atomic.Int64
}

const prefix = "coffer_trustee_"

// NewMetrics makes the metrics of a server with these secret stores outside.
func NewMetrics(version string, started time.Time, stores []string) *Metrics {
	s := metrics.New()
	m := &Metrics{
		Set: s,
		requests: s.Counter(prefix+"requests_total", "Requests that were answered.", metrics.Label{Name: "route", Values: routes},
			metrics.Label{Name: "code", Values: []string{"2xx", "3xx", "4xx", "5xx", "401", "403", "429"}}),
		durations: s.Histogram(prefix+"request_duration_seconds", "From a request's header to the end of its answer.", metrics.Label{Name: "route", Values: routes},
			0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
		limited: s.Counter(prefix+"rate_limited_total", "Requests that came too soon.", metrics.Label{Name: "scope", Values: []string{scopePeer, scopeNamespace}}),
		denials: s.Counter(prefix+"denials_total", "Refusals by their reason.", metrics.Label{Name: "reason", Values: reasons}),
		records: s.Counter(prefix+"audit_records_total", "Records in the audit log.", metrics.Label{Name: "kind", Values: []string{
			audit.KindStart, audit.KindAttest, audit.KindRelease, audit.KindDelivered, audit.KindUndelivered, audit.KindAdmin, audit.KindDenied, audit.KindSuppressed,
		}}),
		syncs:    s.Counter(prefix+"audit_syncs_total", "Writes of the audit log, each synced to disk once."),
		failures: s.Counter(prefix+"audit_failures_total", "Writes of the audit log that failed."),
		lost:     s.Counter(prefix+"audit_outcomes_lost_total", "Outcomes of deliveries that the audit log had no room for."),
		witness:  s.Counter(prefix+"audit_witness_failures_total", "Attempts to send a checkpoint of the audit log that failed."),
		spans:    s.Counter(prefix+"trace_spans_dropped_total", "Spans of traces that the collector did not take in time."),
		fetches: s.Counter(prefix+"collateral_fetches_total", "Requests to vendors for collateral.", metrics.Label{Name: "vendor", Values: fetch.VendorNames()},
			metrics.Label{Name: "outcome", Values: fetch.Outcomes}),
		secrets: s.Counter(prefix+"secret_store_requests_total", "Requests to secret stores outside.", metrics.Label{Name: "store", Values: stores},
			metrics.Label{Name: "outcome", Values: secretstore.Outcomes()}),
		secretTimes: s.Histogram(prefix+"secret_store_duration_seconds", "From a request to a secret store outside to its outcome.", metrics.Label{Name: "store", Values: stores},
			0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 10),
		refused: s.Counter(prefix+"connections_refused_total", "Connections above one peer's share."),
		shed:    s.Counter(prefix+"connections_shed_total", "Connections of slow peers that were closed to make room."),
	}
	s.Gauge(prefix+"requests_in_flight", "Requests that are being answered.", func() float64 { return float64(m.inFlight.Load()) })
	s.Gauge(prefix+"goroutines", "Goroutines.", func() float64 { return float64(runtime.NumGoroutine()) })
	s.Gauge(prefix+"heap_bytes", "Bytes of live and dead objects on the heap.", func() float64 {
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		return float64(ms.HeapAlloc)
	})
	s.Gauge(prefix+"start_time_seconds", "When the server started, Unix time.", func() float64 { return float64(started.Unix()) })
	s.Constant(prefix+"build_info", "The build.", "version", version)
	return m
}

// Denied counts a refusal.
func (m *Metrics) Denied(reason string) { m.denials.Inc(reason) }

// Audited counts what was written to the audit log at once.
func (m *Metrics) Audited(kinds []string, err error) {
	if err != nil {
		m.failures.Inc()
		return
	}
	m.syncs.Inc()
	for _, k := range kinds {
		m.records.Inc(k)
	}
}

// Lost counts the outcome of a delivery that found no room in the audit log.
func (m *Metrics) Lost() { m.lost.Inc() }

// WitnessFailed counts a checkpoint that could not be sent.
func (m *Metrics) WitnessFailed() { m.witness.Inc() }

// SpansDropped counts spans that no collector got.
func (m *Metrics) SpansDropped(n int) { m.spans.Add(uint64(max(n, 0))) }

// Fetched counts a request to a vendor of collateral.
func (m *Metrics) Fetched(vendor, outcome string) { m.fetches.Inc(vendor, outcome) }

// SecretFetched counts a request to a secret store outside.
func (m *Metrics) SecretFetched(store, outcome string, took time.Duration) {
	m.secrets.Inc(store, outcome)
	if took > 0 {
		m.secretTimes.Observe(store, took.Seconds())
	}
}

// Refused counts a connection above its peer's share.
func (m *Metrics) Refused() { m.refused.Inc() }

// Shed counts a connection that was closed to make room.
func (m *Metrics) Shed() { m.shed.Inc() }

// Gauge adds a value that a part of the server knows.
func (m *Metrics) Gauge(name, help string, value func() float64) {
	m.Set.Gauge(prefix+name, help, value)
}
