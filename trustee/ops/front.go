// Package ops is what stands before the trustee's interfaces and beside them for
// those who run it: rates, metrics, health and readiness.
//
// Invariants: labels come from lists in this package, never from a request; a peer
// that asks too often costs a look at its bucket and one short answer; readiness is
// the outcome of using store and audit log, not of hoping.
//
// Trust zone: trustee.
package ops

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/ratelimit"
	"github.com/cofferproject/coffer/trustee/trace"
)

// Routes, as the label route names them.
const (
	routeAuth     = "auth"
	routeAttest   = "attest"
	routeResource = "resource"
	routeAdmin    = "admin"
	routeKeys     = "jwks"
	routeHealth   = "health"
)

var routes = []string{routeAuth, routeAttest, routeResource, routeAdmin, routeKeys, routeHealth}

// route gives the route and the namespace of a path.
func route(path string) (route, ns string) {
	ns = trusteeapi.DefaultNamespace
	if rest, ok := strings.CutPrefix(path, "/ns/"); ok {
		if i := strings.IndexByte(rest, '/'); i > 0 {
			ns, path = rest[:i], rest[i:]
		}
	}
	kbsPath, isKBS := strings.CutPrefix(path, kbs.PathPrefix+"/")
	switch {
	case isKBS && kbsPath == "auth":
		return routeAuth, ns
	case isKBS && kbsPath == "attest":
		return routeAttest, ns
	case isKBS && strings.HasPrefix(kbsPath, "resource/"):
		return routeResource, ns
	case path == trusteeapi.PathPrefix || strings.HasPrefix(path, trusteeapi.PathPrefix+"/"):
		return routeAdmin, ns
	case path == "/.well-known/jwks.json":
		return routeKeys, ns
	case path == "/healthz" || path == "/readyz":
		return routeHealth, ns
	}
	return "", ns
}

// Front counts requests and limits their rate.
type Front struct {
	// Trace, if set before the first request, traces requests.
	Trace *trace.Tracer

	metrics         *Metrics
	peer, namespace *ratelimit.Limiter
}

// NewFront makes a Front; a nil limiter limits nothing.
func NewFront(m *Metrics, peer, namespace *ratelimit.Limiter) *Front {
	return &Front{metrics: m, peer: peer, namespace: namespace}
}

// Wrap puts the Front before a handler.
func (f *Front) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rt, ns := route(r.URL.Path)
		s := &statusWriter{ResponseWriter: w}
		f.metrics.inFlight.Add(1)
		var span *trace.Span
		if rt != "" && rt != routeHealth {
			r, span = f.Trace.Request(r, rt)
		}
		defer func() {
			span.Status(s.code())
			span.End(nil)
			f.metrics.inFlight.Add(-1)
			f.metrics.requests.Inc(rt, s.class())
			f.metrics.durations.Observe(rt, time.Since(began).Seconds())
		}()
		if rt != routeHealth && f.limited(s, r, rt, ns) {
			return
		}
		next.ServeHTTP(s, r)
	})
}

// limited answers a request that comes too soon. The peer's rate is first: what it
// does not get does not count against its namespace.
func (f *Front) limited(w http.ResponseWriter, r *http.Request, rt, ns string) bool {
	scope, wait := "", time.Duration(0)
	if f.peer != nil {
		if ok, d := f.peer.Take(ratelimit.Peer(r.RemoteAddr)); !ok {
			scope, wait = scopePeer, d
		}
	}
	if scope == "" && f.namespace != nil && (rt == routeAuth || rt == routeAttest || rt == routeResource) {
		if ok, d := f.namespace.Take(ns); !ok {
			scope, wait = scopeNamespace, d
		}
	}
	if scope == "" {
		return false
	}
	f.metrics.limited.Inc(scope)
	w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(wait.Seconds())))))
	// The rest of a body is not worth reading.
	w.Header().Set("Connection", "close")
	httpio.WriteError(w, http.StatusTooManyRequests, httpio.TypeAttestation, "too many requests of this "+scope)
	return true
}

// statusWriter remembers the status. Unwrap lets deadlines and flushing through.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *statusWriter) WriteHeader(code int) {
	if s.status == 0 {
		s.status = code
	}
	s.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (s *statusWriter) Write(b []byte) (int, error) {
	if s.status == 0 {
		s.status = http.StatusOK
	}
	return s.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// code gives the status.
func (s *statusWriter) code() int {
	if s.status == 0 {
		return http.StatusOK // nothing was written: net/http answers that
	}
	return s.status
}

// class gives the status as the label code names it.
func (s *statusWriter) class() string {
	switch c := s.code(); {
	case c == http.StatusUnauthorized || c == http.StatusForbidden || c == http.StatusTooManyRequests:
		return strconv.Itoa(c)
	default:
		return strconv.Itoa(c/100) + "xx"
	}
}
