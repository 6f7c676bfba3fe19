package server

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"encoding/pem"

	"github.com/cofferproject/coffer/trustee/witness"
)

// outcome waits for the record of what became of a release.
func (w *world) outcome(record any) map[string]any {
	w.t.Helper()
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		for _, kind := range []string{"delivered", "undelivered"} {
			for _, e := range w.audit(kind) {
				if e["record"] == record {
					return e
				}
			}
		}
	}
	w.t.Fatalf("no outcome of %v", record)
	return nil
}

// What is authorised, and what became of it, are two records.
func TestDelivered(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("default")
	c.handshake(doc)
	if a := c.get(secretName); a.status != 200 || a.header.Get("Content-Length") == "" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	rel := w.audit("release")
	if len(rel) != 1 {
		t.Fatalf("%d release records", len(rel))
	}
	e := w.outcome(rel[0]["record"])
	if e["kind"] != "delivered" || e["resource"] != secretName || e["namespace"] != "default" || e["version"] != 1.0 || e["seq"].(float64) <= rel[0]["seq"].(float64) {
		t.Errorf("%v", e)
	}
}

// A peer that takes the head of a long answer and hangs up has not got it.
func TestUndelivered(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, strings.Repeat("x", 1<<20), doc)
	c := w.client("default")
	c.handshake(doc)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.s.keys.CAPEM)
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			// Small segments and a small window, so that the server's kernel does not take
			// the whole answer.
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536)
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		})
	}}
	conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(w.s.URL(), "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tc := tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	fmt.Fprintf(tc, "GET /kbs/v0/resource/%s HTTP/1.1\r\nHost: x\r\nCookie: kbs-session-id=%s\r\n\r\n", secretName, c.cookieValue())
	if _, err := io.ReadFull(tc, make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	rel := w.audit("release")
	if len(rel) != 1 {
		t.Fatalf("%d release records", len(rel))
	}
	if e := w.outcome(rel[0]["record"]); e["kind"] != "undelivered" || e["reason"] != "delivery-peer-gone" || e["component"] != "kbs" {
		t.Errorf("%v", e)
	}
}

// With a required witness nothing leaves before it has acknowledged the log's start,
// nor while it is too far behind, and all of it does when it is back.
func TestRequiredWitness(t *testing.T) {
	var up atomic.Bool
	got := make(chan string, 1000)
	hook := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- string(b)
	}))
	t.Cleanup(hook.Close)
	dir := t.TempDir()
	ca, key := filepath.Join(dir, "ca"), filepath.Join(dir, "key")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *Config) {
		c.Audit = Audit{Witnesses: []witness.Target{{URL: hook.URL, CAFile: ca, HMACFile: key}}, WitnessRequired: 3, CheckpointEvery: 100 * time.Millisecond}
	})
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("default")
	c.handshake(doc)
	until := func(want int) *answer {
		t.Helper()
		end := time.Now().Add(20 * time.Second)
		for {
			a := c.get(secretName)
			if a.status == want {
				return a
			}
			if time.Now().After(end) {
				t.Fatalf("still %d %s", a.status, a.body)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	if a := c.get(secretName); a.status != 503 || a.err.Reason != "audit-unwitnessed" || a.err.Record == "" || strings.Contains(string(a.body), hook.URL) {
		t.Errorf("before the first acknowledgement: %d %s", a.status, a.body)
	}
	if n := len(w.audit("release")); n != 0 {
		t.Fatalf("%d releases", n)
	}
	up.Store(true)
	until(200)
	up.Store(false)
	until(503) // each answer is a record, and a checkpoint comes every 100 ms
	up.Store(true)
	until(200)
	if len(got) == 0 || !strings.Contains(<-got, `{"checkpoint":`) {
		t.Error("the witness got no checkpoint")
	}
}
