package server

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/trace"
)

// span is one span as a collector reads it.
type span struct {
	TraceID, SpanID, ParentSpanID, Name string
	Kind                                int
	StartTimeUnixNano, EndTimeUnixNano  string
	Attributes                          []struct {
		Key   string
		Value struct{ StringValue, IntValue string }
	}
	Status struct{ Code int }
}

func (s *span) get(key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.StringValue + a.Value.IntValue
		}
	}
	return ""
}

// collector is a fake one.
type collector struct {
	mu    sync.Mutex
	raw   []byte
	spans []span
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("Authorization") != "Bearer t" || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/json" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var m struct {
		ResourceSpans []struct {
			Resource   struct{ Attributes []json.RawMessage }
			ScopeSpans []struct{ Spans []span }
		}
	}
	if json.Unmarshal(b, &m) != nil || len(m.ResourceSpans) != 1 || len(m.ResourceSpans[0].Resource.Attributes) != 2 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, b...)
	for _, s := range m.ResourceSpans[0].ScopeSpans {
		c.spans = append(c.spans, s.Spans...)
	}
}

// requests gives the spans of requests to a route, and those below each.
func (c *collector) requests(route string) (out [][]span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.Name != trace.SpanRequest || s.get(trace.KeyRoute) != route {
			continue
		}
		l := []span{s}
		for _, x := range c.spans {
			if x.TraceID == s.TraceID && x.SpanID != s.SpanID {
				l = append(l, x)
			}
		}
		out = append(out, l)
	}
	return out
}

func names(l []span) string {
	var out []string
	for _, s := range l {
		out = append(out, s.Name)
	}
	return strings.Join(out, " ")
}

func TestTraces(t *testing.T) {
	col := new(collector)
	srv := httptest.NewServer(col)
	t.Cleanup(srv.Close)
	headers := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(headers, []byte("Authorization: Bearer t\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *Config) {
		c.Tracing = trace.Config{Endpoint: srv.URL + "/v1/traces", HeaderFile: headers, Ratio: 1, Accept: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	})
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	w.admin.put("default", "default/un/bound", "x")
	c := w.client("default")
	c.handshake(doc)
	const id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	if a := c.do("GET", "/resource/"+secretName, nil, "Traceparent", "00-"+id+"-"+parent+"-01"); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := c.get("default/un/bound"); a.status != 403 {
		t.Fatalf("%d", a.status)
	}
	w.stop() // sends the rest
	for route, want := range map[string][]string{
		"auth":     {trace.SpanRead},
		"attest":   {trace.SpanVerify, trace.SpanAppraise, trace.SpanWrite, trace.SpanAudit},
		"resource": {trace.SpanRelease, trace.SpanRead, trace.SpanAudit},
		"admin":    {trace.SpanAudit},
	} {
		l := col.requests(route)
		if len(l) == 0 {
			t.Errorf("no trace of %s", route)
			continue
		}
		for _, name := range want {
			if !strings.Contains(names(l[0]), name) {
				t.Errorf("%s: no %s among %s", route, name, names(l[0]))
			}
		}
	}
	res := col.requests("resource")
	if len(res) != 2 {
		t.Fatalf("%d traces of resources", len(res))
	}
	if s := res[0][0]; s.TraceID != id || s.ParentSpanID != parent || s.get(trace.KeyStatus) != "200" || s.Kind != 2 || s.Status.Code != 0 {
		t.Errorf("%+v", s)
	}
	for _, s := range res[1] {
		if s.Name == trace.SpanRelease && (s.get(trace.KeyReason) != "secret-unbound" || s.Status.Code != 2) {
			t.Errorf("%+v", s)
		}
		if s.Name == trace.SpanRequest && (s.get(trace.KeyStatus) != "403" || s.TraceID == id) {
			t.Errorf("%+v", s)
		}
	}
	for _, s := range col.spans {
		if s.Name == trace.SpanVerify && s.get(trace.KeyTEE) != fakeTEE {
			t.Errorf("%+v", s)
		}
	}
	// Nothing that anybody chose, and nothing that anybody claims.
	for _, secret := range []string{"hunter2", secretName, "un/bound", digestOf(doc), c.nonce, c.token, "default\""} {
		if strings.Contains(string(col.raw), secret) {
			t.Errorf("a trace holds %q", secret)
		}
	}
}

// A collector that hangs slows nothing down and keeps the server from nothing.
func TestTracesToNobody(t *testing.T) {
	over := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	t.Cleanup(func() { close(over); srv.Close() })
	w := newWorld(t, func(c *Config) { c.Tracing = trace.Config{Endpoint: srv.URL, Ratio: 1} })
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("default")
	c.handshake(doc)
	for range 300 { // fills a batch, which hangs
		if a := c.get(secretName); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	began := time.Now()
	w.stop()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("stopping took %s", d)
	}
}
