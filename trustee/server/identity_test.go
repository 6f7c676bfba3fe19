package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/keyring"
)

// exporter is RFC 9266 of the client's connection.
func (c *rcar) exporter() string {
	c.t.Helper()
	s := c.conn.ConnectionState()
	b, err := s.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		c.t.Fatal(err)
	}
	return rawURL.EncodeToString(b)
}

// offer begins a handshake that offers bindings and gives what was confirmed.
func (c *rcar) offer(names string) string {
	c.t.Helper()
	if a := c.auth(fakeTEE, `{"coffer-binding":`+names+`}`); a.status != 200 {
		c.t.Fatalf("auth: %d %s", a.status, a.body)
	}
	var x struct {
		Binding json.RawMessage `json:"coffer-binding"`
	}
	_ = json.Unmarshal(c.extra, &x) // "" where nothing is confirmed
	return string(x.Binding)
}

// keyed attests with a key for identities.
func (c *rcar) keyed(doc []byte) *ecdsa.PrivateKey {
	c.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	if got := c.offer(`["identity-key"]`); got != `["identity-key"]` {
		c.t.Fatalf("confirmed %s", got)
	}
	spki, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		c.t.Fatal(err)
	}
	sum := sha256.Sum256(spki)
	c.binding = fmt.Sprintf(`{"identity-key":"%s"}`, rawURL.EncodeToString(sum[:]))
	if a := c.attest(c.fake(doc), doc); a.status != 200 {
		c.t.Fatalf("%d %s", a.status, a.body)
	}
	return k
}

// request is a certificate request that asks for more than it gets.
func request(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	u, _ := url.Parse("spiffe://other.example/admin")
	b, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "admin"}, DNSNames: []string{"admin.example"}, URIs: []*url.URL{u}}, k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (c *rcar) certificate(name string, k *ecdsa.PrivateKey) *answer {
	c.t.Helper()
	return c.do("POST", "/svid/x509/"+name, request(c.t, k))
}

// identityDoc is an answer as its specification has it.
type identityDoc struct {
	ID      string    `json:"spiffe_id"`
	Chain   string    `json:"x509_svid"`
	Bundle  string    `json:"bundle"`
	JWT     string    `json:"jwt_svid"`
	Expires time.Time `json:"expires"`
}

func (c *rcar) document(a *answer) *identityDoc {
	c.t.Helper()
	if a.status != 200 {
		c.t.Fatalf("%d %s", a.status, a.body)
	}
	d := new(identityDoc)
	if err := json.Unmarshal(c.open(a.body), d); err != nil {
		c.t.Fatal(err)
	}
	return d
}

func leafOf(t testing.TB, d *identityDoc) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode([]byte(d.Chain))
	if b == nil {
		t.Fatalf("no certificate in %q", d.Chain)
	}
	crt, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return crt
}

// bundleKey is a member of a bundle.
type bundleKey struct {
	Kty, Kid, Use, Crv, X, Y string
	X5c                      []string
}

func (w *world) bundle(ns string) (int, []bundleKey) {
	w.t.Helper()
	base := w.s.URL()
	if ns != "default" {
		base += "/ns/" + ns
	}
	r, err := w.client("").http.Get(base + "/.well-known/spiffe-bundle.json")
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	var d struct {
		Keys []bundleKey
		Hint int `json:"spiffe_refresh_hint"`
	}
	if r.StatusCode == http.StatusOK && (json.Unmarshal(b, &d) != nil || d.Hint != 300) {
		w.t.Fatalf("%s", b)
	}
	return r.StatusCode, d.Keys
}

// verifies checks a leaf with a bundle, as a workload elsewhere does.
func verifies(t testing.TB, leaf *x509.Certificate, keys []bundleKey, at time.Time) error {
	t.Helper()
	pool := x509.NewCertPool()
	for _, k := range keys {
		for _, c := range k.X5c {
			der, err := base64.StdEncoding.DecodeString(c)
			if err != nil {
				t.Fatal(err)
			}
			crt, err := x509.ParseCertificate(der)
			if err != nil || k.Use != "x509-svid" {
				t.Fatalf("%v, use %s", err, k.Use)
			}
			pool.AddCert(crt)
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

func (w *world) identity(ns, name, path string, audiences ...string) {
	w.t.Helper()
	w.admin.must("PUT", "/namespaces/"+ns+"/identities/"+name, trusteeapi.Identity{Name: name, Path: path, Audiences: audiences})
}

// TestX509Identity has a bound guest certified under the name that the owner gave it,
// whatever it asks for, and nobody else.
func TestX509Identity(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	if status, _ := w.bundle("default"); status != 404 {
		t.Errorf("a bundle without a trust domain: %d", status)
	}
	put := func(path string, v any) int {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		status, _ := w.admin.do("PUT", path, b)
		return status
	}
	if s := put("/namespaces/default/identities/web", trusteeapi.Identity{Name: "web", Path: "/web"}); s != 400 {
		t.Errorf("an identity without a trust domain: %d", s)
	}
	w.admin.must("PUT", "/namespaces/default/trust-domain", trusteeapi.TrustDomain{TrustDomain: "prod.example.org"})
	for path, v := range map[string]any{
		"/namespaces/default/trust-domain": trusteeapi.TrustDomain{TrustDomain: "other.example.org"},
		"/namespaces/sim/trust-domain":     trusteeapi.TrustDomain{TrustDomain: "prod.example.org"},
	} {
		if s := put(path, v); s != 409 {
			t.Errorf("PUT %s: %d", path, s)
		}
	}
	w.identity("default", "web", "/ns/prod/web")

	c := w.client("")
	key := c.keyed(doc)
	denied(t, w, c.certificate("web", key), 403, "secret-unbound")
	w.admin.must("POST", "/namespaces/default/bindings/identity/svid/web", bindTo(doc))
	d := c.document(c.certificate("web", key))
	leaf := leafOf(t, d)
	const id = "spiffe://prod.example.org/ns/prod/web"
	if d.ID != id || len(leaf.URIs) != 1 || leaf.URIs[0].String() != id || len(leaf.DNSNames) != 0 || leaf.Subject.CommonName != "" || leaf.IsCA ||
		leaf.KeyUsage != x509.KeyUsageDigitalSignature || !key.PublicKey.Equal(leaf.PublicKey) {
		t.Errorf("%s: %v", d.ID, leaf)
	}
	if life := leaf.NotAfter.Sub(w.clock.now()); life > time.Hour || life < 59*time.Minute || !leaf.NotAfter.Equal(d.Expires) {
		t.Errorf("lives %s", life)
	}
	_, keys := w.bundle("default")
	if err := verifies(t, leaf, keys, w.clock.now()); err != nil {
		t.Error(err)
	}
	e := w.audit("release")
	if r := e[len(e)-1]; r["resource"] != "identity/svid/web" || r["initdata"] != "sha256:"+digestOf(doc) {
		t.Errorf("record: %v", r)
	}

	// Another pod of the same measurement; a name that nobody registered.
	other := w.client("")
	denied(t, w, other.certificate("web", other.keyed(document(t, "pod b"))), 403, "secret-unbound")
	w.admin.must("POST", "/namespaces/default/bindings/identity/svid/nobody", bindTo(doc))
	denied(t, w, c.certificate("nobody", key), 403, "plugin-refused")
	// Who has the guest's token has another key, or none that the evidence covered.
	thief, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	denied(t, w, c.certificate("web", thief), 403, "identity-key-not-attested")
	plain := w.client("")
	plain.handshake(doc)
	denied(t, w, plain.certificate("web", key), 403, "identity-key-not-attested")
	// A request that is not signed by its key, and nonsense.
	forged := request(t, thief)
	forged[len(forged)-1] ^= 1
	for _, b := range [][]byte{forged, []byte("x"), nil} {
		if a := c.do("POST", "/svid/x509/web", b); a.status != 400 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	for path, want := range map[string]int{"/svid": 404, "/svid/x509": 404, "/svid/x509/WEB": 404, "/svid/ssh/web": 404} {
		if a := c.do("POST", path, request(t, key)); a.status != want {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	if a := w.client("").certificate("web", key); a.status != 401 {
		t.Errorf("without a token: %d", a.status)
	}
	// Taken back: neither it nor one of its name that is made later is this pod's.
	w.admin.must("DELETE", "/namespaces/default/identities/web", nil)
	denied(t, w, c.certificate("web", key), 403, "secret-unbound")
	w.identity("default", "web", "/ns/prod/web")
	denied(t, w, c.certificate("web", key), 403, "secret-unbound")
}

// TestIdentityAuthorityRotation: a new authority is in the bundle before it signs, and an
// old one for as long as what it has signed counts; a restart changes nothing.
func TestIdentityAuthorityRotation(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.admin.must("PUT", "/namespaces/default/trust-domain", trusteeapi.TrustDomain{TrustDomain: "prod.example.org"})
	w.identity("default", "web", "/web")
	w.admin.must("POST", "/namespaces/default/bindings/identity/svid/web", bindTo(doc))
	issue := func() *x509.Certificate {
		t.Helper()
		c := w.client("")
		k := c.keyed(doc)
		return leafOf(t, c.document(c.certificate("web", k)))
	}
	first := issue()
	_, before := w.bundle("default")
	w.admin.must("POST", "/namespaces/default/identity-authorities", trusteeapi.TokenKeyRotation{})
	_, both := w.bundle("default")
	if len(before) != 2 || len(both) != 4 {
		t.Fatalf("%d keys, then %d", len(before), len(both))
	}
	if l := issue(); verifies(t, l, before, w.clock.now()) != nil {
		t.Error("the new authority signs before readers can know it")
	}
	w.stop()
	w.start()
	w.clock.advance(keyring.IdentityLead)
	l := issue()
	if verifies(t, l, before, w.clock.now()) == nil || verifies(t, l, both, w.clock.now()) != nil {
		t.Error("the new authority does not sign when it should")
	}
	if _, now := w.bundle("default"); verifies(t, first, now, w.clock.now()) != nil {
		t.Error("what the old authority has signed counts no more")
	}
	w.clock.advance(trusteeapi.MaxIdentityLife + 10*time.Minute)
	if _, now := w.bundle("default"); len(now) != 2 {
		t.Errorf("%d keys in the end", len(now))
	}
	w.admin.must("POST", "/namespaces/default/identity-authorities", trusteeapi.TokenKeyRotation{Compromised: true})
	if _, now := w.bundle("default"); len(now) != 2 || verifies(t, l, now, w.clock.now()) == nil {
		t.Error("a compromised authority counts")
	}
	if verifies(t, issue(), both, w.clock.now()) == nil {
		t.Error("a compromised authority signs")
	}
}

// TestJWTIdentity gives tokens for registered audiences alone.
func TestJWTIdentity(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.admin.must("PUT", "/namespaces/default/trust-domain", trusteeapi.TrustDomain{TrustDomain: "prod.example.org"})
	w.identity("default", "web", "/web", "https://db.example.org", "queue")
	w.admin.must("POST", "/namespaces/default/bindings/identity/svid/web", bindTo(doc))
	c, other := w.client(""), w.client("")
	c.handshake(doc)
	other.handshake(document(t, "pod b"))
	ask := func(c *rcar, query string) *answer { return c.do("GET", "/svid/jwt/web"+query, nil) }
	denied(t, w, ask(other, "?audience=queue"), 403, "secret-unbound")
	denied(t, w, ask(c, "?audience=queue&audience=bank"), 403, "plugin-refused")
	for _, q := range []string{"", "?audience=queue&x=1", "?" + strings.Repeat("audience=queue&", 9) + "audience=queue"} {
		if a := ask(c, q); a.status != 400 {
			t.Errorf("%s: %d", q, a.status)
		}
	}
	d := c.document(ask(c, "?audience=queue&audience=https://db.example.org"))
	part := strings.Split(d.JWT, ".")
	if len(part) != 3 {
		t.Fatal(d.JWT)
	}
	var header struct{ Alg, Kid, Typ string }
	var claims struct {
		Sub      string
		Aud      []string
		Exp, Iat int64
	}
	for i, v := range []any{&header, &claims} {
		raw, err := rawURL.DecodeString(part[i])
		if err != nil || json.Unmarshal(raw, v) != nil {
			t.Fatalf("%v %s", err, raw)
		}
	}
	if header.Alg != "ES256" || claims.Sub != "spiffe://prod.example.org/web" || len(claims.Aud) != 2 || claims.Exp-claims.Iat != 300 {
		t.Errorf("%+v %+v", header, claims)
	}
	sig, err := rawURL.DecodeString(part[2])
	if err != nil || len(sig) != 64 {
		t.Fatalf("%v %d", err, len(sig))
	}
	sum, good := sha256.Sum256([]byte(part[0]+"."+part[1])), 0
	_, keys := w.bundle("default")
	for _, k := range keys {
		x, _ := rawURL.DecodeString(k.X)
		y, _ := rawURL.DecodeString(k.Y)
		pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
		if err != nil {
			t.Fatal(err)
		}
		if k.Kid == header.Kid && k.Use == "jwt-svid" && ecdsa.Verify(pub, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
			good++
		}
	}
	if good != 1 {
		t.Errorf("%d keys of the bundle verify the token", good)
	}
}

// TestIdentitiesAreSealed: authorities are under the envelope key, and rewrap knows their place.
func TestIdentitiesAreSealed(t *testing.T) {
	w := newWorld(t)
	w.admin.must("PUT", "/namespaces/default/trust-domain", trusteeapi.TrustDomain{TrustDomain: "prod.example.org"})
	_, keys := w.bundle("default")
	if len(keys) != 2 {
		t.Fatalf("%d keys", len(keys))
	}
	left, err := underOldKey(t.Context(), w.s.store, keyring.Both{KEK: otherKEK{}, Old: w.s.kek})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range left {
		found = found || bytes.Equal([]byte(p.place), []byte("keyring/identity/default"))
	}
	if !found {
		t.Errorf("rewrap does not find the authority among %d values", len(left))
	}
}

// otherKEK is a key that nothing is under.
type otherKEK struct{ keyring.KEK }

func (otherKEK) ID() string { return "another" }
