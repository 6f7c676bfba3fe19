package server

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// bindChannel begins a handshake over the client's present connection.
func (c *rcar) bindChannel() {
	c.t.Helper()
	if got := c.offer(`["tls-exporter"]`); got != `["tls-exporter"]` {
		c.t.Fatalf("confirmed %s", got)
	}
	c.binding = fmt.Sprintf(`{"tls-exporter":"%s"}`, c.exporter())
}

// demand has a namespace take evidence of the connection that brings it alone.
func (w *world) demand(required bool) {
	w.t.Helper()
	w.admin.must("PUT", "/namespaces/default/channel-binding", trusteeapi.ChannelBinding{Required: required})
}

// TestRelayWithChannelBinding: where evidence must cover the channel, what TestRelay
// shows to be useless for a thief is refused as well.
func TestRelayWithChannelBinding(t *testing.T) {
	w := newWorld(t)
	docA := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", docA)
	w.demand(true)

	t.Run("the guest itself", func(t *testing.T) {
		a := w.client("")
		a.bindChannel()
		if r := a.attest(a.fake(docA), docA); r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		if string(a.open(a.get(secretName).body)) != "hunter2" {
			t.Error("no secret")
		}
	})

	t.Run("evidence of pod A on pod B's channel", func(t *testing.T) {
		a, b := w.client(""), w.client("")
		b.bindChannel()
		a.bindChannel()
		// Fresh evidence of A for B's session, under A's key; A covers its own channel.
		a.nonce, b.pub, b.binding = b.nonce, a.jwk(), a.binding
		denied(t, w, b.attest(a.fake(docA), docA), 403, "channel-mismatch")
		// With B's channel in the message it is not what the evidence covers.
		b.bindChannel()
		a.nonce = b.nonce
		denied(t, w, b.attest(a.fake(docA), docA), 403, "fake-report-data")
	})

	t.Run("a forwarded handshake", func(t *testing.T) {
		middle := newMiddle(t, w)
		guest := newRCAR(t, middle.ca, middle.url)
		guest.bindChannel()
		denied(t, w, guest.attest(guest.fake(docA), docA), 403, "channel-mismatch")
		if guest.token != "" {
			t.Error("there is a token")
		}
	})

	t.Run("downgraded", func(t *testing.T) {
		// The relay takes the offer out, or the guest makes none.
		c := w.client("")
		c.auth(fakeTEE, `""`)
		denied(t, w, c.attest(c.fake(docA), docA), 403, "channel-binding-demanded")
		// It takes the confirmation out, so that the guest covers nothing.
		c.offer(`["tls-exporter"]`)
		denied(t, w, c.attest(c.fake(docA), docA), 403, "binding-mismatch")
		// A binding that no session has confirmed.
		c.auth(fakeTEE, `""`)
		c.binding = fmt.Sprintf(`{"tls-exporter":"%s"}`, c.exporter())
		denied(t, w, c.attest(c.fake(docA), docA), 403, "binding-mismatch")
		for _, b := range []string{`{}`, `{"tls-exporter":"x"}`, `{"tls-exporter":"AAAA"}`} {
			c.binding = b
			if a := c.attest(c.fake(docA), docA); a.status != 400 {
				t.Errorf("%s: %d %s", b, a.status, a.body)
			}
		}
	})

	t.Run("TLS 1.2", func(t *testing.T) {
		c := w.client("")
		c.http.Transport.(*http.Transport).TLSClientConfig.MaxVersion = tls.VersionTLS12
		if got := c.offer(`["tls-exporter","identity-key","future"]`); got != `["identity-key"]` {
			t.Errorf("confirmed %s", got)
		}
		c.auth(fakeTEE, `{"coffer-binding":["tls-exporter"]}`)
		if strings.Contains(string(c.extra), "coffer") {
			t.Errorf("confirmed %s", c.extra)
		}
		denied(t, w, c.attest(c.fake(docA), docA), 403, "channel-binding-demanded")
	})

	t.Run("not demanded", func(t *testing.T) {
		w.demand(false)
		c := w.client("")
		c.handshake(docA)
		// Whoever offers is held to it all the same.
		c.bindChannel()
		c.http.CloseIdleConnections()
		denied(t, w, c.attest(c.fake(docA), docA), 403, "channel-mismatch")
	})
}
