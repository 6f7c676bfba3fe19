package server

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/tenant"
)

func TestAuditComesFirst(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("")
	c.handshake(doc)
	if err := w.s.audit.Close(); err != nil { // the disk is gone
		t.Fatal(err)
	}
	a := c.get(secretName)
	denied(t, w, a, 503, "audit-unavailable")
	n := w.client("")
	n.auth(fakeTEE, `""`)
	a = n.attest(n.fake(doc), doc)
	denied(t, w, a, 503, "audit-unavailable")
	if k := a.header.Get("Set-Cookie"); k != "" || strings.Contains(string(a.body), "token") {
		t.Errorf("an attestation without a record gave cookie %q and %s", k, a.body)
	}
	if status, b := w.admin.do("PUT", "/namespaces/default/resources/"+secretName, []byte("x")); status != 503 {
		t.Errorf("change without an audit record: %d %s", status, b)
	}
	// Explaining still works.
	if r := w.admin.record(a.err.Record); r.Denial.Reason != "audit-unavailable" {
		t.Errorf("%+v", r)
	}
}

func TestHandshakeRefusals(t *testing.T) {
	w := newWorld(t)
	c := w.client("")
	for _, tc := range []struct {
		name, path, body string
		status           int
		detail           string
	}{
		{"old version", "/auth", `{"version":"0.1.0","tee":"tpm","extra-params":""}`, 400, "KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is 0.1.0"},
		{"newer version", "/auth", `{"version":"0.5.0","tee":"tpm","extra-params":""}`, 400, "KBS Client Protocol Version Mismatch"},
		{"unknown TEE", "/auth", `{"version":"0.4.0","tee":"sample","extra-params":""}`, 403, ""},
		{"missing member", "/auth", `{"version":"0.4.0","tee":"tpm"}`, 400, ""},
		{"not JSON", "/auth", `{`, 400, ""},
		{"plugin", "/no-such/plugin", ``, 404, ""},
		{"no cookie", "/attest", `{}`, 401, ""},
		{"too large", "/auth", strings.Repeat(" ", 3<<20), 413, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := c.do("POST", tc.path, []byte(tc.body))
			if a.status != tc.status || !strings.Contains(a.err.Detail, tc.detail) {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	for _, p := range []string{"/resource/a/b", "/resource/a/b/c/d", "/resource/.a/b/c", "/resource/a/%2e%2e/c", "/resource/a/b%2Fc/d"} {
		if a := c.do("GET", p, nil); a.status/100 != 4 {
			t.Errorf("GET %s: %d", p, a.status)
		}
	}
	if a := w.client("no-such-namespace").auth(fakeTEE, `""`); a.status != 404 {
		t.Errorf("unknown namespace: %d", a.status)
	}
	a := c.auth(fakeTEE, `""`)
	if k := a.header.Get("Set-Cookie"); !strings.Contains(k, "Path=/kbs/v0;") || !strings.Contains(k, "HttpOnly") || !strings.Contains(k, "Secure") || !strings.Contains(k, "SameSite=Strict") {
		t.Errorf("cookie %s", k)
	}
	extra := `{"version":"0.4.0","tee":"faketee","extra-params":{"tpm":{"ek-cert":"` + strings.Repeat("A", 32<<10) + `"}}}`
	if a := c.do("POST", "/auth", []byte(extra)); a.status != 401 && a.status != 400 {
		t.Errorf("extra-params too long for a cookie: %d", a.status)
	}
}

func TestStrangersLeaveLittleBehind(t *testing.T) {
	w := newWorld(t)
	c := w.client("no-such-namespace")
	if a := c.auth("no-such-tee", `""`); a.status != 404 {
		t.Error(a.status)
	}
	if a := c.get("a/b/c", "Authorization", "Bearer x.y.z"); a.status != 404 {
		t.Error(a.status)
	}
	if entries(t, w, tenant.Bucket("no-such-namespace", "records")) != 0 {
		t.Error("records of a namespace that nobody made")
	}
	d := w.client("")
	long := strings.Repeat("x", 100_000)
	if a := d.auth(long[:60_000], `""`); a.status != 400 {
		t.Errorf("long TEE name: %d", a.status)
	}
	if a := d.get("a/b/" + long[:2000]); a.status != 400 {
		t.Errorf("long resource name: %d", a.status)
	}
	d.auth(fakeTEE, `""`)
	d.nonce = long
	a := d.attest("{}", nil)
	denied(t, w, a, 401, "nonce-mismatch")
	if r, _ := json.Marshal(w.admin.record(a.err.Record)); len(r) > 8<<10 {
		t.Errorf("record of %d bytes", len(r))
	}
}

func TestAuthFloodStoresNothing(t *testing.T) {
	w := newWorld(t)
	c := w.client("")
	before := buckets(t, w)
	for range 500 {
		if a := c.auth(fakeTEE, `""`); a.status != 200 {
			t.Fatal(a.status)
		}
	}
	if after := buckets(t, w); after != before {
		t.Errorf("store has %d entries after a flood of /auth, %d before", after, before)
	}
}

func TestEndedSessionsAreSwept(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	for range 3 {
		w.client("").handshake(doc)
	}
	count := func() int {
		return entries(t, w, tenant.Bucket("default", "sessions")) + entries(t, w, "session-expiry")
	}
	if count() != 9 { // of each the session, when it ends, and the nonce
		t.Fatalf("%d entries", count())
	}
	w.clock.advance(15 * time.Minute) // a nonce is remembered for longer than its cookie counts
	if n, err := w.s.sessions.Sweep(t.Context(), 100); err != nil || n != 6 {
		t.Fatalf("swept %d, %v", n, err)
	}
	if count() != 0 || entries(t, w, "session-expiry") != 0 {
		t.Errorf("%d entries left", count())
	}
}

// Clients that send a byte and wait hold a connection for seconds, not for ever,
// and meanwhile others are served.
func TestSlowClients(t *testing.T) {
	w := newWorld(t)
	addr := w.s.ln.Addr().String()
	var conns []*tls.Conn
	for range 100 {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("POST /kbs/v0/auth HTTP/1.1\r\nHost: ")); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	began := time.Now() // so many handshakes take a busy machine a while
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("")
	c.handshake(doc)
	if a := c.get(secretName); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("an honest client waited %s", d)
	}
	if testing.Short() {
		return
	}
	for _, c := range conns {
		c.SetReadDeadline(time.Now().Add(15 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatalf("a slow client is still connected: %v", err)
		}
	}
	if d := time.Since(began); d > 14*time.Second {
		t.Errorf("slow clients were connected for %s", d)
	}
}
