package server

import (
	"bytes"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"runtime"
	"strings"
	"testing"
)

// TestRelay has evidence that is genuine, fresh and of the right guest, in other
// hands than that guest's: none of them gets its secret.
func TestRelay(t *testing.T) {
	w := newWorld(t)
	docA, docB := document(t, "pod a"), document(t, "pod b")
	w.bindSecret("default", secretName, "hunter2", docA)

	// Pod B has pod A attest to B's nonce, and presents that as its own.
	t.Run("evidence of pod A on pod B's channel", func(t *testing.T) {
		a, b := w.client(""), w.client("")
		b.auth(fakeTEE, `""`)
		a.nonce = b.nonce
		evidence := a.fake(docA) // covers A's TEE key
		denied(t, w, b.attest(evidence, docA), 403, "fake-report-data")
		// With A's public key in the message it is accepted; whose the answer is, is in it.
		b.auth(fakeTEE, `""`)
		a.nonce = b.nonce
		b.pub = a.jwk()
		if r := b.attest(a.fake(docA), docA); r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		r := b.get(secretName)
		if r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		if opens(b, r.body) {
			t.Error("pod B opens what is pod A's")
		}
		if string(a.open(r.body)) != "hunter2" {
			t.Error("the answer is for neither")
		}
	})

	// The same machine, image and measurement: what the owner sealed is not this pod.
	t.Run("same measurement with other initdata", func(t *testing.T) {
		b := w.client("")
		b.handshake(docB)
		denied(t, w, b.get(secretName), 403, "secret-unbound")
		// Nor does it help to send the other's document beside its own evidence.
		b.auth(fakeTEE, `""`)
		denied(t, w, b.attest(b.fake(docB), docA), 403, "initdata-mismatch")
	})

	t.Run("session 1's evidence in session 2", func(t *testing.T) {
		one, two := w.client(""), w.client("")
		one.auth(fakeTEE, `""`)
		two.auth(fakeTEE, `""`)
		two.key = one.key // one guest, one TEE key
		evidence := one.fake(docA)
		denied(t, w, two.attest(evidence, docA), 403, "fake-report-data")
		two.nonce = one.nonce
		denied(t, w, two.attest(evidence, docA), 401, "nonce-mismatch")
	})

	// Somebody ends the guest's TLS and passes everything on: he sees all of the
	// handshake and every answer, and no secret. (A guest that has the trustee's CA in
	// its initdata does not come this far: guest/keyholder TestOnlyTheCAInInitdata.)
	t.Run("a forwarded handshake", func(t *testing.T) {
		middle := newMiddle(t, w)
		guest := newRCAR(t, middle.ca, middle.url)
		guest.handshake(docA)
		if got := guest.open(guest.get(secretName).body); string(got) != "hunter2" {
			t.Fatalf("the guest behind the relay got %q", got)
		}
		thief := w.client("")
		thief.token = guest.token
		r := thief.bearer(secretName)
		if r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		if opens(thief, r.body) {
			t.Error("who has the token opens the secret")
		}
		for _, seen := range append(middle.seen, string(r.body)) {
			if strings.Contains(seen, "hunter2") {
				t.Errorf("the secret in the clear: %s", seen)
			}
		}
		// He puts a key of his own in the place of the guest's.
		middle.change = func(body string) string { return strings.Replace(body, guest.jwk()[1:], thief.jwk()[1:], 1) }
		again := newRCAR(t, middle.ca, middle.url)
		again.key = guest.key
		again.auth(fakeTEE, `""`)
		denied(t, w, again.attest(again.fake(docA), docA), 403, "fake-report-data")
		if !middle.changed {
			t.Error("the relay changed nothing: the test is broken")
		}
	})
}

// opens reports whether a client can decrypt an answer.
func opens(c *rcar, jwe []byte) bool {
	f := &failing{TB: c.t}
	probe := *c
	probe.t = f
	done := make(chan bool)
	go func() {
		ok := false
		defer func() { done <- ok && !f.failed }()
		probe.open(jwe)
		ok = true
	}()
	return <-done
}

// failing is a test that may fail.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) Fatal(...any)          { f.stop() }
func (f *failing) Fatalf(string, ...any) { f.stop() }
func (f *failing) Helper()               {}

func (f *failing) stop() {
	f.failed = true
	runtime.Goexit()
}

// middle is a relay that ends TLS with a certificate of its own.
type middle struct {
	url, ca string
	seen    []string
	change  func(string) string
	changed bool
}

func newMiddle(t *testing.T, w *world) *middle {
	t.Helper()
	m := &middle{}
	to := mustURL(t, w.s.URL())
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: w.client("").http.Transport,
		ModifyResponse: func(r *http.Response) error {
			b, err := io.ReadAll(r.Body)
			m.seen = append(m.seen, string(b))
			r.Body = io.NopCloser(bytes.NewReader(b))
			return err
		},
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		b := string(raw)
		m.seen = append(m.seen, b)
		if m.change != nil {
			if n := m.change(b); n != b {
				b, m.changed = n, true
			}
		}
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(b)), int64(len(b))
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(s.Close)
	m.url, m.ca = s.URL, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	return m
}
