package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/store"
)

func withOps(c *Config) { c.Operations.Listen = "127.0.0.1:0" }

// scrape gives status and body of the operators' listener.
func (w *world) scrape(path string) (int, string) {
	w.t.Helper()
	r, err := http.Get(w.s.OpsURL() + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, withOps)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("")
	c.handshake(doc)
	if a := c.get(secretName); a.status != 200 {
		t.Fatal(a.status)
	}
	denied(t, w, c.get("default/db/other"), 403, "secret-unbound")
	if a := w.client("sim").auth("no-such-tee", `""`); a.status != 403 {
		t.Fatal(a.status)
	}
	_, text := w.scrape("/metrics")
	for _, want := range []string{
		`coffer_trustee_requests_total{route="auth",code="2xx"} 1`, `coffer_trustee_requests_total{route="auth",code="403"} 1`,
		`coffer_trustee_requests_total{route="resource",code="2xx"} 1`, `coffer_trustee_requests_total{route="resource",code="403"} 1`,
		`coffer_trustee_request_duration_seconds_count{route="attest"} 1`, `coffer_trustee_denials_total{reason="secret-unbound"} 1`,
		`coffer_trustee_audit_records_total{kind="release"} 1`, `coffer_trustee_audit_records_total{kind="attest"} 1`, "coffer_trustee_requests_in_flight 0\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	// No name that an owner, a guest or a stranger chose.
	for _, not := range []string{"db", "password", "sim", "no-such", "hunter", "127.0.0.1", digestOf(doc)} {
		if strings.Contains(text, not) {
			t.Errorf("the metrics name %q", not)
		}
	}
	// The document lists them all, and no other.
	page, err := os.ReadFile("../../docs/trustee/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(coffer_trustee_[a-z_]+)`").FindAllStringSubmatch(string(page), -1) {
		listed = append(listed, m[1])
	}
	slices.Sort(listed)
	if names := w.s.metrics.Set.Names(); !slices.Equal(listed, names) {
		t.Errorf("docs list %v, the server has %v", listed, names)
	}
}

func TestReadiness(t *testing.T) {
	var down atomic.Bool
	w := newWorld(t, withOps, func(c *Config) {
		c.WrapStore = func(s store.Store) store.Store { return &downStore{s, &down} }
	})
	want := func(status int, text string) {
		t.Helper()
		await(t, func() bool { s, b := w.scrape("/readyz"); return s == status && strings.Contains(b, text) })
	}
	want(200, "ready")
	down.Store(true)
	want(503, "store")
	if s, _ := w.scrape("/healthz"); s != 200 {
		t.Errorf("a store that is away is no reason to kill the process: %d", s)
	}
	down.Store(false)
	want(200, "ready")
	// The same on the public listener, which says no more than this.
	pub, err := w.client("").http.Get(w.s.URL() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	pub.Body.Close()
	if pub.StatusCode != 200 {
		t.Errorf("public: %d", pub.StatusCode)
	}
	if pub, err = w.client("").http.Get(w.s.URL() + "/metrics"); err != nil {
		t.Fatal(err)
	}
	pub.Body.Close()
	if pub.StatusCode != 404 {
		t.Errorf("metrics on the public listener: %d", pub.StatusCode)
	}
	if err := w.s.audit.Close(); err != nil {
		t.Fatal(err)
	}
	want(503, "audit log")
	w.s.Drain(t.Context())
	want(503, "about to stop")
}

// downStore is a store that goes away and comes back.
type downStore struct {
	store.Store
	down *atomic.Bool
}

func (d *downStore) Update(ctx context.Context, fn func(store.Tx) error) error {
	if d.down.Load() {
		return fmt.Errorf("the database is away")
	}
	return d.Store.Update(ctx, fn)
}

func TestRateLimits(t *testing.T) {
	w := newWorld(t, withOps, func(c *Config) { c.Operations.PeerRate, c.Operations.NamespaceRate = 20, 3 })
	c := w.client("sim")
	limited := 0
	for range 20 {
		a := c.auth(fakeTEE, `""`)
		switch a.status {
		case 200:
		case 429:
			limited++
			if a.header.Get("Retry-After") == "" || !strings.Contains(a.err.Detail, "namespace") {
				t.Errorf("%v %s", a.header, a.body)
			}
		default:
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if limited < 10 || limited > 15 {
		t.Errorf("%d of 20 requests were limited at 3 a second and 6 at once", limited)
	}
	if a := w.client("").auth(fakeTEE, `""`); a.status != 200 {
		t.Errorf("another namespace: %d", a.status)
	}
	// The clock of the test goes on: there is room again.
	w.clock.advance(5 * time.Second)
	if a := c.auth(fakeTEE, `""`); a.status != 200 {
		t.Errorf("later: %d", a.status)
	}
	peer := 0
	for range 60 {
		if a := w.client("").do("GET", "/no-such-plugin/x", nil); a.status == 429 && strings.Contains(a.err.Detail, "peer") {
			peer++
		}
	}
	if peer == 0 {
		t.Error("60 requests of one peer at once are not too many at 20 a second")
	}
	_, text := w.scrape("/metrics")
	if !strings.Contains(text, `coffer_trustee_rate_limited_total{scope="peer"}`) || !strings.Contains(text, `{scope="namespace"} `+fmt.Sprint(limited)) {
		t.Errorf("metrics: %s", text)
	}
}

// endless is a body that never ends, and counts what was taken of it.
type endless struct{ n atomic.Int64 }

func (e *endless) Read(b []byte) (int, error) {
	const size = 2 << 30
	if e.n.Load() >= size {
		return 0, io.EOF
	}
	clear(b)
	e.n.Add(int64(len(b)))
	return len(b), nil
}

// A body of 2 GB is refused after little of it, whether its length was named or not.
func TestHugeBody(t *testing.T) {
	w := newWorld(t)
	for _, length := range []int64{2 << 30, -1} {
		c := w.client("")
		body := &endless{}
		req, err := http.NewRequestWithContext(t.Context(), "POST", c.base+"/attest", body)
		if err != nil {
			t.Fatal(err)
		}
		c.auth(fakeTEE, `""`)
		req.ContentLength = length
		resp, err := c.http.Do(req)
		if err == nil { // else the connection was closed while the body was being sent
			if resp.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("length %d: %d", length, resp.StatusCode)
			}
			resp.Body.Close()
		}
		if n := body.n.Load(); n > 32<<20 {
			t.Errorf("length %d: %d bytes were taken", length, n)
		}
	}
	await(t, func() bool { return w.s.bodies.Left() == bodyMemory })
	c := w.client("")
	c.handshake(document(t, "pod a"))
}

// Many slow clients of one address take no more than its share, and an honest client
// of it is served as soon as one of them is gone. COFFER_SLOW_CLIENTS sets how many.
func TestSlowClientsOfOnePeer(t *testing.T) {
	n := 300
	if s := os.Getenv("COFFER_SLOW_CLIENTS"); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, withOps, func(c *Config) { c.Operations.PeerConns = n })
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range n + n/2 {
		c, err := net.Dial("tcp", w.s.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c) // says nothing at all
	}
	await(t, func() bool {
		_, text := w.scrape("/metrics")
		return strings.Contains(text, "coffer_trustee_connections_refused_total ") && !strings.Contains(text, "coffer_trustee_connections_refused_total 0")
	})
	// The silent ones are gone after the time for a request's header.
	began := time.Now()
	for {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", w.s.ln.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			c.Close()
			break
		}
		if time.Since(began) > 15*time.Second {
			t.Fatalf("no honest client gets in: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.client("").handshake(document(t, "pod a"))
}

// What is in progress when the server is told to stop is finished.
func TestDrainFinishesRequests(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("")
	c.auth(fakeTEE, `""`)
	ready, body := io.Pipe()
	evidence := fmt.Sprintf(`{"init-data":{"format":"toml","body":%q},"runtime-data":{"nonce":"%s","tee-pubkey":%s},"tee-evidence":{"primary_evidence":%s,"additional_evidence":""}}`,
		doc, c.nonce, c.jwk(), c.fake(doc))
	status := make(chan int, 1)
	go func() {
		resp, err := c.http.Post(c.base+"/attest", "application/json", bufio.NewReader(ready))
		if err != nil {
			status <- 0
			return
		}
		resp.Body.Close()
		status <- resp.StatusCode
	}()
	if _, err := body.Write([]byte(evidence[:len(evidence)/2])); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan int, 1)
	d := w.client("")
	d.handshake(doc)
	go func() { waiting <- d.get(secretName + "?after=1&wait=30").status }()
	await(t, func() bool { return w.s.gate.Waiting() == 1 && w.s.bodies.Left() < bodyMemory })
	closed := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		w.s.Drain(ctx)
		closed <- w.s.Close(ctx)
	}()
	if s := <-waiting; s != 304 {
		t.Errorf("who waited for a new version got %d", s)
	}
	time.Sleep(100 * time.Millisecond)
	if _, err := body.Write([]byte(evidence[len(evidence)/2:])); err != nil {
		t.Fatal(err)
	}
	body.Close()
	if s := <-status; s != 200 {
		t.Errorf("the attestation in progress got %d", s)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	w.s = nil
}
