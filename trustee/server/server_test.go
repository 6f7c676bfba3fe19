package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/seal"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/appraisal"
)

// clock is a clock that a test sets.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

// ahead reports whether the clock was set.
func (c *clock) ahead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset != 0
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

// world is a trustee with an owner, in process.
type world struct {
	t     testing.TB
	s     *Server
	clock *clock
	cfg   Config
	admin *adminClient
	owner ed25519.PrivateKey
}

func newWorld(t testing.TB, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{}}
	w.cfg = Config{
		State: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)), Now: w.clock.now,
		SimulatedNamespace: "sim", Verifiers: map[string]appraisal.Factory{fakeTEE: fakeFactory},
	}
	for _, c := range change {
		c(&w.cfg)
	}
	var err error
	if _, w.owner, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	w.start()
	return w
}

func (w *world) start() {
	w.t.Helper()
	s, err := Start(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.s = s
	w.admin = newAdminClient(w.t, s)
	w.t.Cleanup(func() { w.stop() })
	w.admin.takeFakes(trusteeapi.DefaultNamespace)
	w.admin.takeFakes("sim")
}

func (w *world) stop() {
	if w.s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := w.s.Close(ctx); err != nil {
		w.t.Logf("close: %v", err)
	}
	w.s = nil
}

// testWriter sends the log to the test while it runs.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

func (w *world) client(ns string) *rcar {
	w.t.Helper()
	base := w.s.URL()
	if ns != "" && ns != trusteeapi.DefaultNamespace {
		base += "/ns/" + ns
	}
	return newRCAR(w.t, string(w.s.keys.CAPEM), base)
}

// document makes an initdata document.
func document(t testing.TB, note string) []byte {
	t.Helper()
	b, err := initdata.Build(&initdata.Document{
		Version: initdata.Version, Algorithm: initdata.SHA256,
		Data: map[string]string{"note": note, "aa.toml": "[token_configs]\n[token_configs.kbs]\nurl = \"https://kbs\"\n"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func digestOf(doc []byte) string {
	s := sha256.Sum256(doc)
	return hex.EncodeToString(s[:])
}

// seal signs a statement about a document.
func (w *world) seal(doc []byte, key ed25519.PrivateKey) *seal.Seal {
	w.t.Helper()
	s, err := seal.Sign(&seal.Statement{
		Version: 1, Pod: seal.Pod{Namespace: "default", Name: "web"}, Initdata: map[string]string{"sha256": digestOf(doc)},
		Policy: "sha256:" + strings.Repeat("0", 64), Created: time.Now().UTC().Truncate(time.Second),
		Images: []seal.Image{{Container: "c", Reference: "app", Digest: "sha256:" + strings.Repeat("1", 64)}},
	}, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// bindSecret stores a secret for the pod of a document, through a seal.
func (w *world) bindSecret(ns, name, secret string, doc []byte) *seal.Seal {
	w.t.Helper()
	a := w.admin
	a.addOwner(ns, w.owner.Public())
	s := w.seal(doc, w.owner)
	a.must("POST", "/namespaces/"+ns+"/seals", trusteeapi.SealInfo{JWS: s.Raw})
	a.put(ns, name, secret)
	a.must("POST", "/namespaces/"+ns+"/bindings/"+name, trusteeapi.Binding{Seals: []string{s.ID}})
	return s
}

// auditKinds lists kind and resource of the audit records so far.
func (w *world) audit(kind string) []map[string]any {
	w.t.Helper()
	lines, err := w.s.audit.Read(0, 100_000, 1<<30)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []map[string]any
	for _, l := range lines {
		var e map[string]any
		if err := json.Unmarshal(l, &e); err != nil {
			w.t.Fatal(err)
		}
		if e["kind"] == kind {
			out = append(out, e)
		}
	}
	return out
}

const secretName = "default/db/password"

func TestAttestedPodGetsItsSecret(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	s := w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("default")
	c.handshake(doc)
	a := c.get(secretName)
	if a.status != 200 || a.header.Get("Content-Type") != "application/json" {
		t.Fatalf("resource by session: %d %s", a.status, a.body)
	}
	if got := c.open(a.body); string(got) != "hunter2" {
		t.Fatalf("secret %q", got)
	}
	// The passport way: a client that has the token and the key, and no session.
	p := w.client("default")
	p.token, p.key = c.token, c.key
	if a := p.bearer(secretName); a.status != 200 || string(p.open(a.body)) != "hunter2" {
		t.Fatalf("resource by bearer: %d %s", a.status, a.body)
	}
	rel := w.audit("release")
	if len(rel) != 2 {
		t.Fatalf("%d release records, want 2", len(rel))
	}
	for k, want := range map[string]any{"resource": secretName, "seal": s.ID, "initdata": "sha256:" + digestOf(doc), "status": "affirming", "version": 1.0} {
		if rel[0][k] != want {
			t.Errorf("audit %s = %v, want %v", k, rel[0][k], want)
		}
	}
	for _, e := range append(w.audit("admin"), rel...) {
		if b, _ := json.Marshal(e); strings.Contains(string(b), "hunter2") {
			t.Error("the secret is in the audit log")
		}
	}
}

func TestTokenIsAsPublished(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	c := w.client("default")
	c.handshake(doc)
	part := func(i int) map[string]any {
		b, err := rawURL.DecodeString(strings.Split(c.token, ".")[i])
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	h, p := part(0), part(1)
	jwk := h["jwk"].(map[string]any)
	if h["typ"] != "JWT" || h["alg"] != "ES256" || jwk["kty"] != "EC" || jwk["alg"] != "ES256" || len(jwk["x5c"].([]any)) != 2 {
		t.Errorf("header %v", h)
	}
	if p["eat_profile"] != "tag:github.com,2024:confidential-containers/Trustee" || p["exp"].(float64)-p["iat"].(float64) != 300 {
		t.Errorf("profile or times: %v", p)
	}
	cpu := p["submods"].(map[string]any)["cpu0"].(map[string]any)
	ev := cpu["ear.veraison.annotated-evidence"].(map[string]any)
	if cpu["ear.status"] != "affirming" || cpu["ear.appraisal-policy-id"] != "default" || ev[fakeTEE].(map[string]any)["fact"] != "yes" ||
		ev["report_data"] != hex.EncodeToString(c.reportData()) || ev["init_data"] != digestOf(doc) {
		t.Errorf("submod %v", cpu)
	}
	rt := ev["runtime_data_claims"].(map[string]any)
	if rt["nonce"] != c.nonce || rt["tee-pubkey"].(map[string]any)["kid"] != nil {
		t.Errorf("runtime data %v", rt)
	}
	if ev["init_data_claims"].(map[string]any)["aa.toml"].(map[string]any)["token_configs"] == nil {
		t.Errorf("init data claims %v", ev["init_data_claims"])
	}
}
