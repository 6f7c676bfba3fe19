package trace

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const parentHeader = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestParent(t *testing.T) {
	for in, want := range map[string]bool{
		parentHeader:                      true,
		"01" + parentHeader[2:]:           true,
		"01" + parentHeader[2:] + "-more": true,
		"01" + parentHeader[2:] + "more":  false,
		parentHeader + "-more":            false,
		"ff" + parentHeader[2:]:           false,
		strings.ToUpper(parentHeader):     false,
		parentHeader[:54]:                 false,
		"":                                false,
		strings.Repeat("-", 55):           false,
		"00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01":                 false,
		"00-0af7651916cd43dd8448eb211c80319c-" + strings.Repeat("0", 16) + "-01": false,
		strings.Replace(parentHeader, "af", "zz", 1):                             false,
	} {
		if _, _, _, ok := parseParent(in); ok != want {
			t.Errorf("%q: %v", in, ok)
		}
	}
	if _, _, sampled, _ := parseParent(parentHeader[:54] + "2"); sampled {
		t.Error("flag 2 means sampled")
	}
}

func FuzzParent(f *testing.F) {
	f.Add(parentHeader)
	f.Add("01" + parentHeader[2:] + "-x")
	f.Fuzz(func(t *testing.T, in string) {
		id, parent, _, ok := parseParent(in)
		if ok && !strings.HasPrefix(in[2:], fmt.Sprintf("-%x-%x-", id, parent)) {
			t.Errorf("%q: %x %x", in, id, parent)
		}
	})
}

func newTracer(t *testing.T, c Config, h http.HandlerFunc) *Tracer {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	c.Endpoint, c.Log = s.URL+"/v1/traces", slog.New(slog.DiscardHandler)
	if c.Ratio == 0 {
		c.Ratio = 1
	}
	x, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close(context.Background()) })
	return x
}

func request(peer string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = peer
	r.Header.Set("Traceparent", parentHeader)
	return r
}

// A trace is continued for a peer of a configured network and for no other, who cannot
// say whether it is sampled either.
func TestWhoseParentCounts(t *testing.T) {
	x := newTracer(t, Config{Accept: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}, func(http.ResponseWriter, *http.Request) {})
	for peer, want := range map[string]bool{"10.1.2.3:4": true, "[::ffff:10.1.2.3]:4": true, "10.2.2.3:4": false, "@": false} {
		_, s := x.Request(request(peer), "auth")
		if got := s.otlp(time.Now()); (got.TraceID == parentHeader[3:35]) != want || (got.ParentID == parentHeader[36:52]) != want {
			t.Errorf("%s: %+v", peer, got)
		}
	}
	r := request("10.1.2.3:4")
	r.Header.Set("Traceparent", parentHeader[:54]+"0")
	if _, s := x.Request(r, "auth"); s != nil {
		t.Error("a trace that its peer does not sample is made")
	}
	r.Header.Add("Traceparent", parentHeader)
	if _, s := x.Request(r, "auth"); s == nil || s.otlp(time.Now()).ParentID != "" {
		t.Error("two parents")
	}
}

func TestRatio(t *testing.T) {
	x := newTracer(t, Config{Ratio: 0.25}, func(http.ResponseWriter, *http.Request) {})
	n := 0
	for range 4000 {
		if _, s := x.Request(request("10.1.2.3:4"), "auth"); s != nil {
			n++
		}
	}
	if n < 800 || n > 1200 {
		t.Errorf("%d of 4000 at a quarter", n)
	}
}

// A collector that hangs costs no time, and bounded memory.
func TestCollectorHangs(t *testing.T) {
	var dropped atomic.Int64
	over := make(chan struct{})
	x := newTracer(t, Config{Dropped: func(n int) { dropped.Add(int64(n)) }}, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-over:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(over) })
	began := time.Now()
	for range 20_000 {
		r, s := x.Request(request("10.1.2.3:4"), "auth")
		_, in := Start(r.Context(), SpanRead)
		in.End(nil)
		s.End(nil)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("20,000 requests took %s", d)
	}
	if n := dropped.Load(); n < 40_000-maxWaiting-2*batch {
		t.Errorf("only %d of 40,000 spans were dropped", n)
	}
	began = time.Now()
	x.Close(t.Context())
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("closing took %s", d)
	}
}

// A request has so many spans and no more, and what is not traced costs nothing.
func TestSpansAreBounded(t *testing.T) {
	n := make(chan int, 100)
	x := newTracer(t, Config{}, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		n <- strings.Count(string(b), `"spanId"`)
	})
	r, s := x.Request(request("10.1.2.3:4"), "auth")
	for range 1000 {
		_, in := Start(r.Context(), SpanRead)
		in.End(nil)
	}
	s.End(nil)
	x.Close(t.Context())
	if got := <-n; got != maxSpans {
		t.Errorf("%d spans", got)
	}
	if a := testing.AllocsPerRun(100, func() {
		ctx, s := Start(context.Background(), SpanRead)
		s.End(nil)
		_ = ctx
	}); a != 0 {
		t.Errorf("%v allocations without a trace", a)
	}
}

func TestConfigIsRefused(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(bad, []byte("no header\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	for _, c := range []Config{
		{Endpoint: "http://collector:4318/v1/traces", Ratio: 1, Log: log},
		{Endpoint: "https://u:p@collector/", Ratio: 1, Log: log},
		{Endpoint: "ftp://localhost/", Ratio: 1, Log: log},
		{Endpoint: "https://", Ratio: 1, Log: log},
		{Endpoint: "https://c/", Ratio: 0, Log: log},
		{Endpoint: "https://c/", Ratio: 1.5, Log: log},
		{Endpoint: "https://c/", Ratio: 1, Log: log, CAFile: bad},
		{Endpoint: "https://c/", Ratio: 1, Log: log, HeaderFile: bad},
	} {
		if x, err := New(c); err == nil {
			x.Close(t.Context())
			t.Errorf("%+v is taken", c)
		}
	}
	if x, err := New(Config{}); x != nil || err != nil {
		t.Error("without an endpoint there is a tracer")
	}
}
