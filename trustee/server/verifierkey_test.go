package server

import (
	"crypto/sha256"
	"fmt"
	"os"
	"testing"
)

// verifier is whom the client's connection has verified, worked out apart from api/kbs.
func (c *rcar) verifier() string {
	c.t.Helper()
	s := sha256.Sum256(c.conn.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
	return rawURL.EncodeToString(s[:])
}

// nameVerifier begins a handshake that names the verifier of the present connection.
func (c *rcar) nameVerifier() {
	c.t.Helper()
	if got := c.offer(`["verifier-key"]`); got != `["verifier-key"]` {
		c.t.Fatalf("confirmed %s", got)
	}
	c.binding = fmt.Sprintf(`{"verifier-key":"%s"}`, c.verifier())
}

// TestRelayToAnotherVerifier: evidence that names a verifier is worth nothing to another.
func TestRelayToAnotherVerifier(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)

	t.Run("the guest itself", func(t *testing.T) {
		c := w.client("")
		c.nameVerifier()
		if r := c.attest(c.fake(doc), doc); r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		if string(c.open(c.get(secretName).body)) != "hunter2" {
			t.Error("no secret")
		}
	})

	t.Run("a forwarded handshake", func(t *testing.T) {
		middle := newMiddle(t, w)
		guest := newRCAR(t, middle.ca, middle.url)
		guest.nameVerifier()
		honest := guest.binding
		denied(t, w, guest.attest(guest.fake(doc), doc), 403, "verifier-mismatch")
		// The relay writes the trustee's name into the message: it is not what the evidence
		// covers.
		own := w.client("")
		own.nameVerifier()
		if own.binding == honest {
			t.Fatal("the relay has the trustee's key: the test is broken")
		}
		guest.nameVerifier()
		evidence := guest.fake(doc)
		guest.binding = own.binding
		denied(t, w, guest.attest(evidence, doc), 403, "fake-report-data")
		if guest.token != "" {
			t.Error("there is a token")
		}
	})

	t.Run("taken out", func(t *testing.T) {
		c := w.client("")
		c.nameVerifier()
		c.binding = ""
		denied(t, w, c.attest(c.fake(doc), doc), 403, "binding-mismatch")
	})
}

// TestVerifierKeyWhileTheCertificateChanges: what counts is the certificate that the
// guest's connection was made with.
func TestVerifierKeyWhileTheCertificateChanges(t *testing.T) {
	cert, key := serverFiles(t)
	nextCert, nextKey := serverFiles(t)
	roots := string(mustRead(t, cert)) + string(mustRead(t, nextCert))
	w := newWorld(t, func(c *Config) { c.CertFile, c.KeyFile = cert, key })
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)

	kept, late := newRCAR(t, roots, w.s.URL()), newRCAR(t, roots, w.s.URL())
	kept.nameVerifier()
	late.nameVerifier()
	for from, to := range map[string]string{nextCert: cert, nextKey: key} {
		if err := os.WriteFile(to, mustRead(t, from), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := kept.attest(kept.fake(doc), doc); r.status != 200 {
		t.Errorf("on the connection from before: %d %s", r.status, r.body)
	}
	late.http.CloseIdleConnections()
	denied(t, w, late.attest(late.fake(doc), doc), 403, "verifier-mismatch")
	fresh := newRCAR(t, roots, w.s.URL())
	fresh.nameVerifier()
	if fresh.verifier() == kept.verifier() {
		t.Fatal("the certificate did not change: the test is broken")
	}
	if r := fresh.attest(fresh.fake(doc), doc); r.status != 200 {
		t.Errorf("on a connection from after: %d %s", r.status, r.body)
	}
}
