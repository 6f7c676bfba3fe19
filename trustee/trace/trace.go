// Package trace records what a request spent its time on, and sends it to a collector
// by OTLP/HTTP in JSON (OpenTelemetry Protocol 1.x; W3C Trace Context).
//
// Invariants: off unless a collector is named; a span's name and attributes come from
// the code, with values from lists or of fixed form, never from what a peer or an owner
// chose; nothing waits for a collector, and what it does not take in time is dropped
// and counted; a trace's id comes from a peer only if its address was configured.
//
// Trust zone: trustee. The collector is the operator's, and learns when who-knows-what
// was asked for: no names, no claims, no secrets.
package trace

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/denial"
)

// Names of spans. docs/trustee/operations.md lists them.
const (
	SpanRequest  = "request"
	SpanVerify   = "attest.verify"
	SpanAppraise = "attest.appraise"
	SpanRelease  = "release"
	SpanAudit    = "audit.append"
	SpanRead     = "store.view"
	SpanWrite    = "store.update"
)

// Keys of attributes.
const (
	KeyRoute  = "coffer.route"
	KeyStatus = "http.response.status_code"
	KeyTEE    = "coffer.tee"
	KeyReason = "coffer.denial"
)

// maxSpans bounds the spans of one request.
const maxSpans = 64

// Tracer makes traces of requests. A nil one makes none.
type Tracer struct {
	ratio  uint64 // of 2^63
	accept []netip.Prefix
	out    *exporter
}

// trace is all of one request.
type trace struct {
	id [16]byte
	t  *Tracer

	mu    sync.Mutex
	spans int
}

// Span is one part of a request. A nil one records nothing.
type Span struct {
	of         *trace
	id, parent [8]byte
	name       string
	kind       int
	began      time.Time
	attributes []attribute
	failed     bool
}

type attribute struct {
	key   string
	text  string
	num   int64
	isNum bool
}

type contextKey struct{}

// Request begins the trace of a request, if it is sampled. A peer whose address was
// configured says whether it is, and of which trace it is a part.
func (t *Tracer) Request(r *http.Request, route string) (*http.Request, *Span) {
	if t == nil {
		return r, nil
	}
	tr := &trace{t: t}
	s := &Span{of: tr, name: SpanRequest, kind: kindServer, began: time.Now()}
	id, parent, sampled, ok := t.parent(r)
	if ok {
		tr.id, s.parent = id, parent
	} else {
		rand.Read(tr.id[:])
		sampled = binary.BigEndian.Uint64(tr.id[8:])>>1 < t.ratio
	}
	if !sampled {
		return r, nil
	}
	s.id = newSpanID()
	tr.spans = 1
	s.Text(KeyRoute, route)
	return r.WithContext(context.WithValue(r.Context(), contextKey{}, s)), s
}

// Start begins a part of what ctx is a part of; nil if that is not traced.
func Start(ctx context.Context, name string) (context.Context, *Span) {
	up, _ := ctx.Value(contextKey{}).(*Span)
	if up == nil {
		return ctx, nil
	}
	up.of.mu.Lock()
	full := up.of.spans == maxSpans
	if !full {
		up.of.spans++
	}
	up.of.mu.Unlock()
	if full {
		return ctx, nil
	}
	s := &Span{of: up.of, id: newSpanID(), parent: up.id, name: name, kind: kindInternal, began: time.Now()}
	return context.WithValue(ctx, contextKey{}, s), s
}

// Text adds an attribute whose values are of a list in the code.
func (s *Span) Text(key, value string) {
	if s != nil {
		s.attributes = append(s.attributes, attribute{key: key, text: value})
	}
}

// Status adds the status of the answer.
func (s *Span) Status(code int) {
	if s == nil {
		return
	}
	s.attributes = append(s.attributes, attribute{key: KeyStatus, num: int64(code), isNum: true})
	s.failed = s.failed || code >= http.StatusInternalServerError
}

// End ends a span. Of a refusal it keeps the id of its reason, of another error that
// there was one.
func (s *Span) End(err error) {
	if s == nil {
		return
	}
	if err != nil {
		s.failed = true
		if d, ok := denial.As(err); ok {
			s.Text(KeyReason, string(d.Reason))
		}
	}
	s.of.t.out.add(s, time.Now())
}

func newSpanID() (id [8]byte) {
	for id == [8]byte{} { // which means none
		rand.Read(id[:])
	}
	return id
}

// parent reads traceparent (W3C Trace Context, version 00) of a peer that may say so.
func (t *Tracer) parent(r *http.Request) (id [16]byte, parent [8]byte, sampled, ok bool) {
	h := r.Header.Values("Traceparent")
	if len(h) != 1 || len(t.accept) == 0 || !t.accepts(r.RemoteAddr) {
		return id, parent, false, false
	}
	return parseParent(h[0])
}

func parseParent(s string) (id [16]byte, parent [8]byte, sampled, ok bool) {
	const size = 2 + 1 + 32 + 1 + 16 + 1 + 2
	// Later versions may be longer; what they add means nothing to us.
	if len(s) < size || s[2] != '-' || s[35] != '-' || s[52] != '-' || s != strings.ToLower(s) ||
		s[:2] == "ff" || (s[:2] == "00" && len(s) != size) || (len(s) > size && s[size] != '-') {
		return id, parent, false, false
	}
	var version, flags [1]byte
	for _, x := range []struct {
		to   []byte
		from string
	}{{version[:], s[:2]}, {id[:], s[3:35]}, {parent[:], s[36:52]}, {flags[:], s[53:55]}} {
		if _, err := hex.Decode(x.to, []byte(x.from)); err != nil {
			return id, parent, false, false
		}
	}
	if id == ([16]byte{}) || parent == ([8]byte{}) {
		return id, parent, false, false
	}
	return id, parent, flags[0]&1 == 1, true
}

func (t *Tracer) accepts(remote string) bool {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	ip := a.Addr().Unmap()
	for _, p := range t.accept {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// share turns a part of 1 into what ids are compared with.
func share(ratio float64) uint64 {
	if ratio >= 1 {
		return math.MaxUint64
	}
	return uint64(ratio * (1 << 63))
}
