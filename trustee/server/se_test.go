package server

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/se"
	"github.com/cofferproject/coffer/tee/se/attester"
	"github.com/cofferproject/coffer/tee/se/setest"
)

// seHeader is the header of an encrypted image with these tags (s390-tools, boot
// request control block), as far as a trustee reads it.
func seHeader(tags []byte) []byte {
	b := make([]byte, 0x280)
	copy(b, "IBMSecEx")
	binary.BigEndian.PutUint32(b[8:], 0x100)
	binary.BigEndian.PutUint32(b[12:], uint32(len(b)))
	binary.BigEndian.PutUint64(b[0x20:], 1)    // key slot
	binary.BigEndian.PutUint64(b[0x28:], 0x80) // bytes encrypted
	copy(b[0xe0:], tags[:192])
	copy(b[0x270:], tags[192:])
	return b
}

func seTags(n byte) []byte {
	b := make([]byte, se.TagsSize)
	b[0], b[207] = n, n
	return b
}

func seMachine(t testing.TB, tags []byte) *setest.Machine {
	t.Helper()
	m, err := setest.New(tags)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func hostKeyPEM(t testing.TB, k *ecdh.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// authSE opens a session; the nonce is the challenge's text.
func (c *rcar) authSE(extra string) *answer {
	c.t.Helper()
	a := c.do("POST", "/auth", []byte(`{"version":"0.4.0","tee":"se","extra-params":`+extra+`}`))
	if a.status != 200 {
		return a
	}
	var ch struct {
		Nonce string          `json:"nonce"`
		Extra json.RawMessage `json:"extra-params"`
	}
	if err := json.Unmarshal(a.body, &ch); err != nil {
		c.t.Fatal(err)
	}
	if _, err := se.ParseChallenge([]byte(ch.Nonce)); err != nil {
		c.t.Fatalf("nonce %q: %v", ch.Nonce, err)
	}
	c.nonce, c.extra = ch.Nonce, ch.Extra
	return a
}

// seEvidence has a machine's ultravisor answer a challenge for this session.
func (c *rcar) seEvidence(m *setest.Machine, nonce string) string {
	c.t.Helper()
	h := sha512.Sum512([]byte(c.runtimeData()))
	b, err := attester.New(m).Answer(c.t.Context(), nonce, h[:])
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// A guest under a (played) ultravisor attests over the published protocol: the
// nonce is the request, made anew for each session and good for that one alone.
func TestSecureExecution(t *testing.T) {
	w := newWorld(t)
	const ns = "/namespaces/default"
	m := seMachine(t, seTags(7))
	put := func(name string, doc []byte) {
		t.Helper()
		if status, b := w.admin.do("PUT", ns+"/anchors/se/"+name, doc); status != 200 {
			t.Fatalf("anchor %s: %d %s", name, status, b)
		}
	}
	put("host-keys", hostKeyPEM(t, m.HostKey()))

	// Off until it is allowed by name, and without what a challenge takes.
	c := w.client("")
	denied(t, w, c.authSE(`""`), 403, "unproven-verifier")
	w.admin.must("PUT", ns+"/allow-unproven", trusteeapi.AllowUnproven{AllowUnproven: []string{"se"}})
	denied(t, w, c.authSE(`""`), 403, "se-challenge-unavailable")
	put("image-header", seHeader(seTags(7)))
	denied(t, w, c.authSE(`{"supported-hash-algorithms":["sha256","sha384"]}`), 403, "se-challenge-unavailable")

	// Published policies and reference values judge it.
	text := `package policy
import rego.v1
default executables := 33
default hardware := 97
trust_claims := {"executables": executables, "hardware": hardware, "configuration": 2}
executables := 3 if input.se.tag in query_reference_value("se_tag")
hardware := 2 if input.se.attestation_phkh in query_reference_value("se_attestation_phkh")
`
	if status, b := w.admin.do("PUT", ns+"/policies/default_cpu", []byte(text)); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	if a := c.authSE(`{"supported-hash-algorithms":["sha384","sha512"]}`); a.status != 200 || string(c.extra) != `{"selected-hash-algorithm":"sha512"}` {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := c.attest(c.seEvidence(m, c.nonce), nil); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	claims, err := w.s.tokens.Verify(w.t.Context(), "default", c.token)
	if err != nil {
		t.Fatal(err)
	}
	sub := claims.Submods["cpu0"]
	if sub.Coffer.TEE != "se" || len(sub.Coffer.Unproven) != 1 || sub.Coffer.Initdata != nil || sub.Status == ear.Affirming {
		t.Errorf("without reference values: %+v", sub)
	}
	found, ok := sub.Evidence["se"].(map[string]any)
	if !ok {
		t.Fatalf("claims %v", sub.Evidence)
	}
	refs := &refvalue.Bundle{Version: 1, Provenance: refvalue.Provenance{Tool: "test"}, Sets: []refvalue.Set{}}
	refs.AddValues("se_tag", found["tag"])
	refs.AddValues("se_attestation_phkh", found["attestation_phkh"])
	w.admin.must("PUT", ns+"/reference-values/image", refs)
	again := w.client("")
	if a := again.authSE(`""`); a.status != 200 || string(again.extra) != `""` {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if again.nonce == c.nonce {
		t.Fatal("two sessions have one challenge")
	}
	if a := again.attest(again.seEvidence(m, again.nonce), nil); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if claims, err = w.s.tokens.Verify(w.t.Context(), "default", again.token); err != nil || claims.Submods["cpu0"].Status != ear.Affirming {
		t.Errorf("with reference values: %+v, %v", claims, err)
	}

	// Affirmed, and still it gets no secret: nothing binds initdata.
	w.bindSecret("default", secretName, "hunter2", document(t, "pod a"))
	denied(t, w, again.get(secretName), 403, "initdata-unbound")

	// The nonce is used up, for this cookie and for the evidence.
	next := func() *rcar {
		t.Helper()
		c := w.client("")
		if a := c.authSE(`""`); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return c
	}
	x, y := next(), next()
	denied(t, w, x.attest(x.seEvidence(m, y.nonce), nil), 403, "se-challenge-mismatch")
	x = next()
	x.nonce = y.nonce
	if a := x.attest(x.seEvidence(m, y.nonce), nil); a.status != 401 || a.err.Reason != "nonce-mismatch" {
		t.Errorf("another session's nonce: %d %s", a.status, a.body)
	}
	if a := y.attest(y.seEvidence(m, y.nonce), nil); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := y.attest(y.seEvidence(m, y.nonce), nil); a.status != 401 {
		t.Errorf("a second attestation of one session: %d %s", a.status, a.body)
	}

	// Evidence that was bent, or that another image's guest gives.
	x = next()
	var e se.Evidence
	if err := json.Unmarshal([]byte(x.seEvidence(m, x.nonce)), &e); err != nil {
		t.Fatal(err)
	}
	e.Measurement[5] ^= 1
	bent, err := json.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	denied(t, w, x.attest(string(bent), nil), 403, "se-measurement-mismatch")
	x = next()
	doc := document(t, "pod a")
	denied(t, w, x.attest(x.seEvidence(m, x.nonce), doc), 403, "initdata-unbound")
	x = next()
	evidence := x.seEvidence(m, x.nonce)
	x.newKey() // another TEE key than the one in user data
	denied(t, w, x.attest(evidence, nil), 403, "report-data-mismatch")
	x = next()
	other := *m
	other.Tags = seTags(9)
	denied(t, w, x.attest(x.seEvidence(&other, x.nonce), nil), 403, "se-measurement-mismatch")
	x = next()
	if _, err := attester.New(seMachine(t, seTags(7))).Answer(t.Context(), x.nonce, make([]byte, 64)); err == nil {
		t.Error("a machine whose host key is not registered opens the request")
	}

	// A session outlives a restart: key and nonce are sealed in it.
	x = next()
	evidence = x.seEvidence(m, x.nonce)
	w.stop()
	w.start() // puts its own policy
	cookie := x.cookieValue()
	x.base = w.client("").base
	x.http.Jar.SetCookies(mustURL(t, x.base), cookies("kbs-session-id", cookie))
	if a := x.attest(evidence, nil); a.status != 200 {
		t.Errorf("after a restart: %d %s", a.status, a.body)
	}
	// A simulated namespace has no ultravisor, and no anchors.
	if status, b := w.admin.do("PUT", "/namespaces/sim/anchors/se/host-keys", hostKeyPEM(t, m.HostKey())); status != 400 {
		t.Errorf("%d %s", status, b)
	}
	w.admin.must("PUT", "/namespaces/sim/allow-unproven", trusteeapi.AllowUnproven{AllowUnproven: []string{"se"}})
	denied(t, w, w.client("sim").authSE(`""`), 403, "not-simulated")
}

// What no challenge could be made of is refused when it is registered.
func TestSecureExecutionAnchors(t *testing.T) {
	w := newWorld(t)
	p384, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, doc := range map[string]string{
		"host-keys":    "keys",
		"host-keys ":   string(hostKeyPEM(t, p384.PublicKey())),
		"image-header": "header",
	} {
		if status, b := w.admin.do("PUT", "/namespaces/default/anchors/se/"+strings.TrimSpace(name), []byte(doc)); status != 400 {
			t.Errorf("%s %.20q: %d %s", name, doc, status, b)
		}
	}
}
