package server

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/trusteeapi"
)

// denied checks status, reason and that the wire tells nothing more than it may.
func denied(t *testing.T, w *world, a *answer, status int, reason string) {
	t.Helper()
	if a.status != status || a.err.Reason != reason {
		t.Fatalf("answer %d %s, want %d %s: %s", a.status, a.err.Reason, status, reason, a.body)
	}
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		t.Fatal(err)
	}
	for k := range m {
		if !strings.Contains(" type detail reason claim record ", " "+k+" ") {
			t.Errorf("error document has member %q", k)
		}
	}
	explained(t, w, a)
}

// What fits into no token is the peer's to hear of, by a reason, and no fault of the
// trustee's.
func TestTokenTooLarge(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	c := w.client("")
	if a := c.auth(fakeTEE, `""`); a.status != 200 {
		t.Fatalf("auth: %d %s", a.status, a.body)
	}
	a := c.attest(c.fake(doc, func(e *fakeEvidence) { e.Unproven = 3000 }), doc)
	denied(t, w, a, 403, "token-too-large")
	if r := w.admin.record(a.err.Record); r.Denial.Measured == "" || r.Denial.Expected == "" {
		t.Errorf("the owner is not told: %+v", r.Denial)
	}
	c.handshake(doc)
}

func TestReleaseRule(t *testing.T) {
	w := newWorld(t)
	mine, other := document(t, "pod a"), document(t, "pod b")
	w.bindSecret("default", secretName, "hunter2", mine)
	w.admin.put("default", "default/db/unbound", "nobody's")
	w.admin.must("POST", "/namespaces/default/bindings/default/db/later", trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(mine)}})

	t.Run("other initdata", func(t *testing.T) {
		c := w.client("")
		c.handshake(other)
		a := c.get(secretName)
		denied(t, w, a, 403, "secret-unbound")
		r := w.admin.record(a.err.Record)
		if r.Denial.Measured != "sha256:"+digestOf(other) || !strings.Contains(r.Denial.Expected, digestOf(mine)) || !strings.Contains(r.Denial.Source, secretName) {
			t.Errorf("the owner is not told: %+v", r.Denial)
		}
		if strings.Contains(string(a.body), digestOf(mine)) {
			t.Error("the wire tells what was expected")
		}
	})
	t.Run("affirming alone, no binding", func(t *testing.T) {
		c := w.client("")
		c.handshake(mine)
		denied(t, w, c.get("default/db/unbound"), 403, "secret-unbound")
	})
	t.Run("absent secrets look like unbound ones", func(t *testing.T) {
		c := w.client("")
		c.handshake(other)
		denied(t, w, c.get("no/such/secret"), 403, "secret-unbound")
	})
	t.Run("bound but absent", func(t *testing.T) {
		c := w.client("")
		c.handshake(mine)
		denied(t, w, c.get("default/db/later"), 404, "secret-absent")
	})
	t.Run("binding by digest", func(t *testing.T) {
		w.admin.put("default", "default/db/later", "now")
		c := w.client("")
		c.handshake(mine)
		if a := c.get("default/db/later"); a.status != 200 || string(c.open(a.body)) != "now" {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
	t.Run("guest without initdata", func(t *testing.T) {
		c := w.client("")
		c.auth(fakeTEE, `""`)
		if a := c.attest(c.fake(nil), nil); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		denied(t, w, c.get(secretName), 403, "initdata-unbound")
	})
	t.Run("not affirming", func(t *testing.T) {
		for _, hw := range []int8{33, 97, -97} {
			c := w.client("")
			c.handshake(mine, func(e *fakeEvidence) { e.Hardware = hw })
			denied(t, w, c.get(secretName), 403, "status-unacceptable")
		}
	})
	t.Run("debug guest", func(t *testing.T) {
		c := w.client("")
		c.handshake(mine, func(e *fakeEvidence) { e.Debug = true })
		denied(t, w, c.get(secretName), 403, "status-unacceptable")
	})
	t.Run("no token", func(t *testing.T) {
		a := w.client("").get(secretName)
		if a.status != 401 || !strings.HasSuffix(a.err.Type, "/TokenNotFound") {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}

func TestSealsAndOwners(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	s := w.bindSecret("default", secretName, "hunter2", doc)

	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	forged := w.seal(doc, stranger)
	b, _ := json.Marshal(trusteeapi.SealInfo{JWS: forged.Raw})
	if status, out := w.admin.do("POST", "/namespaces/default/seals", b); status != 400 || !strings.Contains(string(out), "no owner's") {
		t.Errorf("seal of an unknown key: %d %s", status, out)
	}
	// The owner's key id on a stranger's signature.
	parts, own := strings.Split(forged.Raw, "."), strings.Split(s.Raw, ".")
	b, _ = json.Marshal(trusteeapi.SealInfo{JWS: own[0] + "." + parts[1] + "." + parts[2]})
	if status, out := w.admin.do("POST", "/namespaces/default/seals", b); status != 400 {
		t.Errorf("seal with a forged key id: %d %s", status, out)
	}
	// Another namespace does not know the owner.
	b, _ = json.Marshal(trusteeapi.SealInfo{JWS: s.Raw})
	if status, _ := w.admin.do("POST", "/namespaces/sim/seals", b); status != 400 {
		t.Errorf("seal in another namespace: %d", status)
	}
	b, _ = json.Marshal(trusteeapi.Binding{Seals: []string{strings.Repeat("0", 64)}})
	if status, _ := w.admin.do("POST", "/namespaces/default/bindings/"+secretName, b); status != 400 {
		t.Errorf("binding to an unregistered seal: %d", status)
	}
	c := w.client("")
	c.handshake(doc)
	if a := c.get(secretName); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if status, _ := w.admin.do("DELETE", "/namespaces/default/owners/"+s.KeyID, nil); status != 204 {
		t.Fatalf("deleting the owner: %d", status)
	}
	denied(t, w, c.get(secretName), 403, "secret-unbound")
	w.admin.addOwner("default", w.owner.Public())
	if a := c.get(secretName); a.status != 200 {
		t.Errorf("owner is back: %d %s", a.status, a.body)
	}
	if status, _ := w.admin.do("DELETE", "/namespaces/default/seals/"+s.ID, nil); status != 204 {
		t.Fatalf("deleting the seal: %d", status)
	}
	denied(t, w, c.get(secretName), 403, "secret-unbound")
}

func TestSessions(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)

	t.Run("evidence of another session", func(t *testing.T) {
		one, two := w.client(""), w.client("")
		one.auth(fakeTEE, `""`)
		two.auth(fakeTEE, `""`)
		denied(t, w, two.attest(one.fake(doc), doc), 403, "fake-report-data")
	})
	t.Run("nonce of another session", func(t *testing.T) {
		one, two := w.client(""), w.client("")
		one.auth(fakeTEE, `""`)
		two.auth(fakeTEE, `""`)
		two.nonce = one.nonce
		denied(t, w, two.attest(two.fake(doc), doc), 401, "nonce-mismatch")
	})
	t.Run("evidence for another TEE key", func(t *testing.T) {
		c := w.client("")
		c.auth(fakeTEE, `""`)
		e := c.fake(doc)
		c.newKey()
		denied(t, w, c.attest(e, doc), 403, "fake-report-data")
	})
	t.Run("session used twice", func(t *testing.T) {
		c := w.client("")
		a := c.auth(fakeTEE, `""`)
		old := strings.Split(a.header.Get("Set-Cookie"), ";")[0]
		e := c.fake(doc)
		if a := c.attest(e, doc); a.status != 200 {
			t.Fatal(a.status)
		}
		denied(t, w, c.attest(e, doc), 401, "session-used")
		// A thief of the first cookie, on a connection of his own.
		thief := w.client("")
		thief.nonce, thief.key = c.nonce, c.key
		name, value, _ := strings.Cut(old, "=")
		thief.http.Jar.SetCookies(mustURL(t, thief.base), cookies(name, value))
		denied(t, w, thief.attest(e, doc), 401, "session-used")
		// Nor does that cookie read.
		if a := thief.get(secretName); a.status != 401 {
			t.Errorf("unattested session reads: %d", a.status)
		}
		// The mark survives a restart.
		w.stop()
		w.start()
		thief = w.client("")
		thief.nonce, thief.key = c.nonce, c.key
		thief.http.Jar.SetCookies(mustURL(t, thief.base), cookies(name, value))
		denied(t, w, thief.attest(e, doc), 401, "session-used")
	})
	t.Run("expired", func(t *testing.T) {
		c := w.client("")
		c.auth(fakeTEE, `""`)
		w.clock.advance(6 * time.Minute)
		defer w.clock.advance(-6 * time.Minute)
		// The cookie jar would drop it.
		a := c.do("POST", "/attest", []byte("{}"), "Cookie", "kbs-session-id="+c.cookieValue())
		if a.status != 401 || a.err.Reason != "session-expired" && a.err.Detail == "" {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
	t.Run("session of another namespace", func(t *testing.T) {
		c := w.client("")
		c.auth(fakeTEE, `""`)
		v := c.cookieValue()
		s := w.client("sim")
		s.nonce, s.key = c.nonce, c.key
		a := s.do("POST", "/attest", []byte(`{}`), "Cookie", "kbs-session-id="+v)
		denied(t, w, a, 401, "session-invalid")
	})
	t.Run("garbage cookies", func(t *testing.T) {
		c := w.client("")
		c.auth(fakeTEE, `""`)
		v := c.cookieValue()
		for _, bad := range []string{"x", "o1.", "o1..", "o1." + v, v[:len(v)-2], strings.Replace(v, "o1.e", "o1.f", 1), "a1." + strings.Repeat("A", 43)} {
			a := c.do("POST", "/attest", []byte(`{}`), "Cookie", "kbs-session-id="+bad)
			if a.status != 401 {
				t.Errorf("cookie %.20q: %d", bad, a.status)
			}
		}
	})
}

func TestForgedTokens(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("")
	c.handshake(doc)
	good := c.token
	parts := strings.Split(good, ".")

	// What the trustee would have to sign to be fooled, signed by another key.
	claims, err := w.s.tokens.Verify(t.Context(), "default", good)
	if err != nil {
		t.Fatal(err)
	}
	k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	stranger, err := ear.NewSigner(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := stranger.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	payload, _ := rawURL.DecodeString(parts[1])
	none := rawURL.EncodeToString([]byte(`{"alg":"none"}`))
	for name, tok := range map[string]string{
		"key in the header":  forged,
		"payload exchanged":  parts[0] + "." + rawURL.EncodeToString([]byte(strings.Replace(string(payload), "pod a", "pod b", 1)+" ")) + "." + parts[2],
		"alg none":           none + "." + parts[1] + ".",
		"alg none, old sig":  none + "." + parts[1] + "." + parts[2],
		"signature cut":      good[:len(good)-3],
		"garbage":            "a.b.c",
		"two parts":          parts[0] + "." + parts[1],
		"admin token":        w.admin.token("GET", "/kbs/v0/resource/"+secretName),
		"empty signature":    parts[0] + "." + parts[1] + ".",
		"signature of zeros": parts[0] + "." + parts[1] + "." + rawURL.EncodeToString(make([]byte, 64)),
	} {
		t.Run(name, func(t *testing.T) {
			p := w.client("")
			p.token, p.key = tok, c.key
			denied(t, w, p.bearer(secretName), 401, "token-invalid")
		})
	}
	t.Run("expired", func(t *testing.T) {
		w.clock.advance(7 * time.Minute)
		defer w.clock.advance(-7 * time.Minute)
		p := w.client("")
		p.token, p.key = good, c.key
		denied(t, w, p.bearer(secretName), 401, "token-expired")
		if a := c.get(secretName); a.status != 401 {
			t.Errorf("ended session reads: %d", a.status)
		}
	})
	t.Run("of another namespace", func(t *testing.T) {
		w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: "tenant-b"})
		w.admin.takeFakes("tenant-b")
		w.bindSecret("tenant-b", secretName, "b's", doc)
		p := w.client("tenant-b")
		p.token, p.key = good, c.key
		denied(t, w, p.bearer(secretName), 401, "token-invalid") // each namespace has keys of its own
		// Nor does what such a key would have signed count for another one.
		var err error
		if p.token, err = w.s.tokens.Sign(t.Context(), "tenant-b", claims); err != nil {
			t.Fatal(err)
		}
		denied(t, w, p.bearer(secretName), 401, "token-namespace")
	})
	t.Run("stolen token without the TEE key", func(t *testing.T) {
		p := w.client("")
		p.token = good // its key is another one
		a := p.bearer(secretName)
		if a.status != 200 {
			t.Fatal(a.status)
		}
		if strings.Contains(string(a.body), "hunter2") {
			t.Error("the secret is readable")
		}
		if got := c.open(a.body); string(got) != "hunter2" {
			t.Error("not encrypted to the attested key")
		}
	})
}

func TestSimulation(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("sim", secretName, "toy", doc)
	w.bindSecret("default", secretName, "hunter2", doc)
	simulated := func(e *fakeEvidence) { e.Simulated = true }

	c := w.client("sim")
	c.handshake(doc, simulated)
	if a := c.get(secretName); a.status != 200 || string(c.open(a.body)) != "toy" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	claims, err := w.s.tokens.Verify(t.Context(), "sim", c.token)
	if err != nil {
		t.Fatal(err)
	}
	if s := claims.Submods["cpu0"]; s.Status != ear.Warning || s.Vector.Hardware != ear.UnsafeHardware || !s.Coffer.Simulated {
		t.Errorf("simulated evidence got %s %+v", s.Status, s.Vector)
	}
	p := w.client("default")
	p.auth(fakeTEE, `""`)
	denied(t, w, p.attest(p.fake(doc, simulated), doc), 403, "fake-simulated")
	// What is wrong beyond being simulated still counts.
	bad := w.client("sim")
	bad.handshake(doc, simulated, func(e *fakeEvidence) { e.Hardware = 97 })
	denied(t, w, bad.get(secretName), 403, "status-unacceptable")
	dbg := w.client("sim")
	dbg.handshake(doc, simulated, func(e *fakeEvidence) { e.Debug = true })
	denied(t, w, dbg.get(secretName), 403, "status-unacceptable")
	// A namespace whose owner asked for debug guests.
	w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: "lab", Simulated: true, InsecureAllowDebug: true})
	w.admin.takeFakes("lab")
	w.bindSecret("lab", secretName, "toy", doc)
	lab := w.client("lab")
	lab.handshake(doc, simulated, func(e *fakeEvidence) { e.Debug = true })
	if a := lab.get(secretName); a.status != 200 {
		t.Errorf("debug guest in a namespace that allows it: %d %s", a.status, a.body)
	}
	b, _ := json.Marshal(trusteeapi.Namespace{Name: "default", Simulated: true})
	if status, _ := w.admin.do("POST", "/namespaces", b); status != 409 {
		t.Errorf("turning a namespace into a simulated one: %d", status)
	}
}
