package server

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/keyring"
)

// keep runs work over and over on a goroutine until the test says stop.
func keep(work func()) (stop func()) {
	var end atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !end.Load() {
			work()
		}
	})
	return func() { end.Store(true); wg.Wait() }
}

func (a *adminClient) rotateTokenKey(ns string, o trusteeapi.TokenKeyRotation) *trusteeapi.TokenKey {
	a.t.Helper()
	k := new(trusteeapi.TokenKey)
	if err := json.Unmarshal(a.must("POST", "/namespaces/"+ns+"/token-keys", o), k); err != nil {
		a.t.Fatal(err)
	}
	return k
}

// TestTokenKeyRotationUnderLoad: nobody notices a rotation, before, while or after
// the new key begins to sign, neither with tokens nor with sessions of before.
func TestTokenKeyRotationUnderLoad(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	read := func(c *rcar, path string) {
		if a := c.get(path); a.status != 200 || string(c.open(a.body)) != "hunter2" {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	before := w.client("")
	before.handshake(doc)
	var handshakes atomic.Int64
	var stops []func()
	for range 3 {
		c := w.client("")
		stops = append(stops, keep(func() {
			c.handshake(doc)
			read(c, secretName)
			handshakes.Add(1)
		}))
	}
	some := func() {
		for end := handshakes.Load() + 10; handshakes.Load() < end && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
	}
	some()
	first := before.token
	next := w.admin.rotateTokenKey("default", trusteeapi.TokenKeyRotation{})
	some()
	w.clock.advance(keyring.TokenKeyLead)
	some()
	read(before, secretName)
	for _, stop := range stops {
		stop()
	}
	after := w.client("")
	after.handshake(doc)
	header := func(token string) string { return strings.Split(token, ".")[0] } // it carries the key
	if header(first) == header(after.token) {
		t.Error("the new key does not sign")
	}
	var keys []trusteeapi.TokenKey
	if _, b := w.admin.do("GET", "/namespaces/default/token-keys", nil); json.Unmarshal(b, &keys) != nil || len(keys) != 2 || keys[1].ID != next.ID || keys[0].Until.IsZero() {
		t.Errorf("token keys: %+v", keys)
	}
	if e := w.audit("admin"); !strings.Contains(e[len(e)-1]["action"].(string), "POST /namespaces/{ns}/token-keys") || e[len(e)-1]["namespace"] != "default" {
		t.Errorf("no record of the rotation: %v", e[len(e)-1])
	}

	// A key that somebody else has as well: what it signed counts no more at once.
	w.admin.rotateTokenKey("default", trusteeapi.TokenKeyRotation{Compromised: true})
	passport := w.client("")
	passport.key, passport.token = after.key, after.token
	denied(t, w, passport.bearer(secretName), 401, "token-invalid")
	after.handshake(doc)
	if passport.token = after.token; passport.bearer(secretName).status != 200 {
		t.Error("a token of the new key does not count")
	}
}

// TestKeySetsOfNamespaces: each has its own, and one that nobody made has none.
func TestKeySetsOfNamespaces(t *testing.T) {
	w := newWorld(t)
	sets := map[string]string{}
	for _, ns := range []string{"", "/ns/default", "/ns/sim"} {
		resp, err := w.client("").http.Get(w.s.URL() + ns + "/.well-known/jwks.json")
		if err != nil {
			t.Fatal(err)
		}
		var set json.RawMessage
		err = json.NewDecoder(resp.Body).Decode(&set)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "max-age=60" {
			t.Fatalf("%s: %d %v %v", ns, resp.StatusCode, resp.Header, err)
		}
		sets[ns] = string(set)
	}
	if sets[""] != sets["/ns/default"] || sets[""] == sets["/ns/sim"] {
		t.Errorf("key sets: %v", sets)
	}
	for _, ns := range []string{"/ns/nowhere", "/ns/NOT-A-NAME"} {
		resp, err := w.client("").http.Get(w.s.URL() + ns + "/.well-known/jwks.json")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 404 {
			t.Errorf("%s: %d", ns, resp.StatusCode)
		}
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func firstCertificate(t *testing.T, path string) []byte {
	t.Helper()
	block, _ := pem.Decode(mustRead(t, path))
	if block == nil {
		t.Fatalf("%s is no PEM", path)
	}
	return block.Bytes
}

// served gives the certificate that a new connection gets.
func (w *world) served(anchors ...string) (*x509.Certificate, error) {
	pool := x509.NewCertPool()
	for _, a := range anchors {
		b, err := os.ReadFile(a)
		if err != nil {
			return nil, err
		}
		pool.AppendCertsFromPEM(b)
	}
	c, err := tls.Dial("tcp", strings.TrimPrefix(w.s.URL(), "https://"), &tls.Config{RootCAs: pool})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

// TestTLSIsReloadedUnderLoad replaces the certificate's files, as a certificate
// manager does, while clients come and go.
func TestTLSIsReloadedUnderLoad(t *testing.T) {
	cert, key := serverFiles(t)
	nextCert, nextKey := serverFiles(t)
	w := newWorld(t, func(c *Config) { c.CertFile, c.KeyFile = cert, key })
	old := cert + ".old"
	move := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+".new", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(to+".new", to); err != nil {
			t.Fatal(err)
		}
	}
	move(cert, old)
	both := append([]byte(nil), mustRead(t, old)...)
	both = append(both, mustRead(t, nextCert)...)
	var asked atomic.Int64
	stop := keep(func() {
		c := newRCAR(t, string(both), w.s.URL()) // a connection of its own
		if a := c.do("GET", "/resource/a/b/c", nil); a.status != 401 {
			t.Errorf("%d %s", a.status, a.body)
		}
		c.http.CloseIdleConnections()
		asked.Add(1)
	})
	defer stop()
	is := func(want string) bool {
		c, err := w.served(old, nextCert)
		if err != nil {
			t.Fatal(err)
		}
		return string(c.Raw) == string(firstCertificate(t, want))
	}
	if !is(old) {
		t.Fatal("another certificate from the start")
	}
	if err := os.WriteFile(cert, []byte("half of a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * refreshEvery)
	if !is(old) {
		t.Error("a file that is no certificate replaced one that is")
	}
	move(nextCert, cert) // its key is still another's
	time.Sleep(2 * refreshEvery)
	if !is(old) {
		t.Error("a certificate without its key is served")
	}
	move(nextKey, key)
	for end := time.Now().Add(20 * time.Second); !is(nextCert); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the new certificate is not served")
		}
	}
	// SIGHUP asks for it at once.
	move(old, cert)
	if err := w.s.Reload(t.Context()); err == nil {
		t.Error("reloading a certificate without its key succeeds")
	}
	if !is(nextCert) {
		t.Error("it replaced the one that is served")
	}
	stop()
	if asked.Load() == 0 {
		t.Error("nobody asked meanwhile")
	}
}

// TestHybridKeyExchange: clients that can, agree on a key that a quantum computer
// does not give away.
func TestHybridKeyExchange(t *testing.T) {
	w := newWorld(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.s.keys.CAPEM)
	for name, tc := range map[string]struct {
		offered []tls.CurveID
		want    tls.CurveID
	}{
		"what Go offers":      {nil, tls.X25519MLKEM768},
		"hybrid last":         {[]tls.CurveID{tls.CurveP256, tls.X25519, tls.X25519MLKEM768}, tls.X25519MLKEM768},
		"hybrid alone":        {[]tls.CurveID{tls.X25519MLKEM768}, tls.X25519MLKEM768},
		"a client without it": {[]tls.CurveID{tls.X25519}, tls.X25519},
	} {
		c, err := tls.Dial("tcp", strings.TrimPrefix(w.s.URL(), "https://"), &tls.Config{RootCAs: pool, CurvePreferences: tc.offered})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := c.ConnectionState().CurveID; got != tc.want {
			t.Errorf("%s: agreed on %s, want %s", name, got, tc.want)
		}
		c.Close()
	}
}
