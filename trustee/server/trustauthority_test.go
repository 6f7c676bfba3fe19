package server

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/intel/inteltest"
	"github.com/cofferproject/coffer/trustee/trustauthority"
)

const (
	taPolicy = "749dd9b1-234f-41f5-a6ca-42c4312dd4f1"
	taKey    = "an-api-key-that-nobody-logs"
)

// authorityService behaves as Intel Trust Authority's published API: it knows its API
// key, demands that the quote's report data is the SHA-512 (SGX: SHA-256) of runtime_data,
// asks its policies and signs with PS384. It believes quotes without their signatures.
type authorityService struct {
	t     testing.TB
	http  *httptest.Server
	key   *rsa.PrivateKey
	kid   string
	clock func() time.Time
	asked atomic.Int64

	mu     sync.Mutex
	status int                  // answered instead, if not 0
	hang   time.Duration        // before an answer
	policy bool                 // whether taPolicy matches
	change func(map[string]any) // of the claims
	sign   *rsa.PrivateKey      // instead of key
	head   map[string]any       // instead of the header
	away   bool                 // its key set is
	mangle func(string) string  // of the token
}

func newAuthorityService(t testing.TB) *authorityService {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	a := &authorityService{t: t, key: key, kid: "11f93ba6-3a1f-4d1f-9b3c-000000000001", policy: true, clock: time.Now}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /appraisal/v2/attest", a.attest)
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"issuer":"x","jwks_uri":"%s/certs"}`, a.http.URL)
	})
	mux.HandleFunc("GET /certs", func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.away {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, `{"keys":[{"kty":"RSA","alg":"PS384","kid":%q,"n":%q,"e":"AQAB","x5c":["MII"]}]}`, a.kid, rawURL.EncodeToString(a.key.N.Bytes()))
	})
	a.http = httptest.NewServer(mux)
	t.Cleanup(a.http.Close)
	return a
}

func (a *authorityService) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

func (a *authorityService) attest(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked.Add(1)
	fail := func(status int, text string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":%q}`, text)
	}
	if a.hang > 0 {
		select {
		case <-time.After(a.hang):
		case <-r.Context().Done():
			return
		}
	}
	if a.status != 0 {
		fail(a.status, "not now")
		return
	}
	if r.Header.Get("x-api-key") != taKey || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Accept") != "application/json" {
		fail(401, "who is there")
		return
	}
	type evidence struct {
		Quote       []byte `json:"quote"`
		RuntimeData []byte `json:"runtime_data"`
	}
	var req struct {
		PolicyIDs []string  `json:"policy_ids"`
		Must      bool      `json:"policy_must_match"`
		TDX       *evidence `json:"tdx"`
		SGX       *evidence `json:"sgx"`
	}
	b, err := io.ReadAll(r.Body)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err == nil {
		err = d.Decode(&req)
	}
	if err != nil || (req.TDX == nil) == (req.SGX == nil) {
		fail(400, "unreadable")
		return
	}
	body := map[string]any{"attester_tcb_status": "UpToDate", "dbgstat": "disabled", "attester_tcb_date": "2026-08-01T00:00:00Z"}
	claims := map[string]any{
		"iss": "Intel Trust Authority", "iat": a.clock().Unix(), "nbf": a.clock().Unix(), "exp": a.clock().Add(5 * time.Minute).Unix(), "jti": "59aeaed5", "ver": "2.0.0", "intuse": "generic",
	}
	if e := req.TDX; e != nil {
		sum := sha512.Sum512(e.RuntimeData)
		if len(e.Quote) < 632 || !bytes.Equal(e.Quote[568:632], sum[:]) {
			fail(400, "report data does not match the runtime data")
			return
		}
		body["attester_type"], claims["tdx"] = "TDX", body
		body["tdx_is_debuggable"], body["tdx_td_attributes_debug"] = false, false
		body["tdx_mrtd"], body["tdx_mrconfigid"], body["tdx_report_data"] = hex.EncodeToString(e.Quote[184:232]), hex.EncodeToString(e.Quote[232:280]), hex.EncodeToString(e.Quote[568:632])
	} else {
		e := req.SGX
		sum := sha256.Sum256(e.RuntimeData)
		if len(e.Quote) < 432 || !bytes.Equal(e.Quote[368:400], sum[:]) {
			fail(400, "report data does not match the runtime data")
			return
		}
		body["attester_type"], claims["sgx"] = "SGX", body
		body["sgx_is_debuggable"] = false
		body["sgx_mrenclave"], body["sgx_config_id"], body["sgx_report_data"] = hex.EncodeToString(e.Quote[112:144]), hex.EncodeToString(e.Quote[240:304]), hex.EncodeToString(e.Quote[368:432])
	}
	var matched, unmatched []map[string]string
	for _, id := range req.PolicyIDs {
		p := map[string]string{"id": id, "version": "v1", "hash": "aGFzaA=="}
		if a.policy && id == taPolicy {
			matched = append(matched, p)
		} else {
			unmatched = append(unmatched, p)
		}
	}
	if req.Must && len(unmatched) > 0 {
		fail(400, "policy does not match")
		return
	}
	if matched != nil {
		claims["policy_ids_matched"] = matched
	}
	if unmatched != nil {
		claims["policy_ids_unmatched"] = unmatched
	}
	if a.change != nil {
		a.change(claims)
	}
	token := a.token(claims)
	if a.mangle != nil {
		token = a.mangle(token)
	}
	fmt.Fprintf(w, `{"token":%q}`, token)
}

func (a *authorityService) token(claims map[string]any) string {
	head := a.head
	if head == nil {
		head = map[string]any{"alg": "PS384", "kid": a.kid, "jku": a.http.URL + "/certs", "typ": "JWT"}
	}
	h, _ := json.Marshal(head)
	c, _ := json.Marshal(claims)
	signed := rawURL.EncodeToString(h) + "." + rawURL.EncodeToString(c)
	key := a.key
	if a.sign != nil {
		key = a.sign
	}
	sum := sha512.Sum384([]byte(signed))
	sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA384, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	if err != nil {
		a.t.Error(err)
	}
	return signed + "." + rawURL.EncodeToString(sig)
}

// tdxEvidence is a quote with these registers; nobody but the service looks at the rest.
func tdxEvidence(initdataDigest string, report []byte) string {
	q := inteltest.QuoteV4()
	clear(q[232:280])
	if d, err := hex.DecodeString(initdataDigest); err == nil {
		copy(q[232:280], d)
	}
	copy(q[568:632], report)
	return fmt.Sprintf(`{"cc_eventlog":null,"quote":%q}`, base64.StdEncoding.EncodeToString(q))
}

func (w *world) taHandshake(tee string, doc []byte, evidence func(c *rcar) string) (*rcar, *answer) {
	w.t.Helper()
	c := w.client("")
	if a := c.auth(tee, `{"supported-hash-algorithms":["sha256","sha384","sha512"]}`); a.status != 200 {
		w.t.Fatalf("auth: %d %s", a.status, a.body)
	}
	return c, c.attest(evidence(c), doc)
}

func newTAWorld(t *testing.T, a *authorityService, change ...func(*trustauthority.Options)) *world {
	t.Helper()
	w := newWorld(t, func(c *Config) {
		c.Remote.TrustAuthority = trustauthority.Options{
			URL: a.http.URL, APIKey: taKey, Keys: a.http.URL, Policies: []string{taPolicy}, Timeout: 2 * time.Second,
		}
		for _, f := range change {
			f(&c.Remote.TrustAuthority)
		}
	})
	a.clock = w.clock.now
	w.admin.must("PUT", "/namespaces/default/allow-unproven", map[string]any{"allow_unproven": []string{"trust-authority"}})
	return w
}

// taKeysTried waits until this trustee has taken the service's keys, or knows that it
// cannot: a fetch that the service has answered may not have come that far.
func (w *world) taKeysTried() {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, r := w.taHandshake("tdx", nil, func(c *rcar) string {
			s := sha512.Sum512([]byte(c.runtimeData()))
			return tdxEvidence("", s[:])
		})
		if r.status == 200 || r.status == 403 && !strings.Contains(w.admin.record(r.err.Record).Denial.Measured, "not been fetched yet") {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("the service's keys have not been fetched: %d %s", r.status, r.body)
		}
	}
}

// TestTrustAuthority releases on what the service has judged, to the pod that the secret
// is bound to, and on nothing that is not about this session.
func TestTrustAuthority(t *testing.T) {
	a := newAuthorityService(t)
	w := newTAWorld(t, a)
	w.taKeysTried()
	doc, digest := documentOf(t, initdata.SHA384)
	other := document(t, "another pod")
	demanding, err := initdata.Build(&initdata.Document{
		Version: initdata.Version, Algorithm: initdata.SHA384, Data: map[string]string{initdata.KeyAA: "additional_devices = ['nvidia']\n"},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.admin.put("default", secretName, "hunter2")
	w.admin.must("POST", "/namespaces/default/bindings/"+secretName, map[string]any{"initdata": []string{digest}})
	hexDigest := strings.TrimPrefix(digest, "sha384:")
	sum := func(c *rcar) []byte { s := sha512.Sum512([]byte(c.runtimeData())); return s[:] }
	good := func(c *rcar) string { return tdxEvidence(hexDigest, sum(c)) }

	c, r := w.taHandshake("tdx", doc, good)
	if r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if string(c.extra) != `{"selected-hash-algorithm":"sha512"}` {
		t.Errorf("extra-params %s", c.extra)
	}
	if got := c.get(secretName); got.status != 200 || string(c.open(got.body)) != "hunter2" {
		t.Errorf("%d %s", got.status, got.body)
	}
	p := tokenPayload(t, c.token)
	cpu := p["submods"].(map[string]any)["cpu0"].(map[string]any)
	if p["iss"] != "Coffer-KBS" || cpu["ear.status"] != "affirming" || !strings.Contains(fmt.Sprint(cpu), "trust-authority") || !strings.Contains(fmt.Sprint(cpu), "tdx_mrtd") {
		t.Errorf("token %v", p)
	}
	// Whose evidence matches and whose secret it is not, gets nothing.
	c, r = w.taHandshake("tdx", nil, func(c *rcar) string { return tdxEvidence("", sum(c)) })
	if r.status != 200 {
		t.Fatalf("without initdata: %d %s", r.status, r.body)
	}
	denied(t, w, c.get(secretName), 403, "initdata-unbound")

	for what, tc := range map[string]struct {
		doc      []byte
		evidence func(c *rcar) string
		reason   string
	}{
		"another session's quote": {doc, func(*rcar) string { return tdxEvidence(hexDigest, make([]byte, 64)) }, "attestation-service-refused"},
		"another document":        {other, good, "initdata-mismatch"},
		"no document":             {nil, good, "initdata-missing"},
		"an empty register":       {doc, func(c *rcar) string { return tdxEvidence("", sum(c)) }, "initdata-unexpected"},
		"no evidence":             {doc, func(*rcar) string { return `{}` }, "trust-authority-evidence-malformed"},
		"simulated": {doc, func(c *rcar) string {
			return strings.TrimSuffix(good(c), "}") + `,"simulation":"not real"}`
		}, "simulated-evidence"},
		"a device that is demanded": {demanding, func(c *rcar) string {
			s := sha512.Sum384(demanding)
			return tdxEvidence(hex.EncodeToString(s[:]), sum(c))
		}, "device-missing"},
	} {
		_, r := w.taHandshake("tdx", tc.doc, tc.evidence)
		if r.status != 403 || r.err.Reason != tc.reason {
			t.Errorf("%s: %d %s", what, r.status, r.body)
		}
	}
	tdx := func(f func(m map[string]any)) func(map[string]any) {
		return func(c map[string]any) { f(c["tdx"].(map[string]any)) }
	}
	stranger, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	// A service, or somebody on the way, that says what is not so.
	for what, tc := range map[string]struct {
		set    func()
		reason string
	}{
		"another session's answer": {func() {
			a.change = tdx(func(m map[string]any) { m["tdx_report_data"] = strings.Repeat("0", 128) })
		}, "report-data-mismatch"},
		"no report data":     {func() { a.change = tdx(func(m map[string]any) { delete(m, "tdx_report_data") }) }, "report-data-mismatch"},
		"a short register":   {func() { a.change = tdx(func(m map[string]any) { m["tdx_mrconfigid"] = "00" }) }, "attestation-service-untrusted"},
		"another TEE":        {func() { a.change = tdx(func(m map[string]any) { m["attester_type"] = "SGX" }) }, "attestation-service-untrusted"},
		"nothing of the TEE": {func() { a.change = func(c map[string]any) { delete(c, "tdx") } }, "attestation-service-untrusted"},
		"an old answer":      {func() { a.change = func(c map[string]any) { c["iat"] = time.Now().Add(-time.Hour).Unix() } }, "attestation-service-untrusted"},
		"an expired answer":  {func() { a.change = func(c map[string]any) { c["exp"] = time.Now().Add(-time.Second).Unix() } }, "attestation-service-untrusted"},
		"no times":           {func() { a.change = func(c map[string]any) { delete(c, "iat") } }, "attestation-service-untrusted"},
		"a policy that it says has not matched": {func() {
			a.change = func(c map[string]any) { c["policy_ids_unmatched"] = []any{map[string]any{"id": "x"}} }
		}, "attestation-service-refused"},
		"no word of the policy": {func() { a.change = func(c map[string]any) { delete(c, "policy_ids_matched") } }, "attestation-service-refused"},
		"another's signature":   {func() { a.sign = stranger }, "attestation-service-untrusted"},
		"no signature":          {func() { a.head = map[string]any{"alg": "none", "kid": a.kid} }, "attestation-service-untrusted"},
		"another algorithm":     {func() { a.head = map[string]any{"alg": "RS256", "kid": a.kid} }, "attestation-service-untrusted"},
		"another key":           {func() { a.head = map[string]any{"alg": "PS384", "kid": "other"} }, "attestation-service-untrusted"},
		"a key of its own": {func() {
			a.sign = stranger
			a.head = map[string]any{"alg": "PS384", "kid": a.kid, "jwk": map[string]any{"kty": "RSA", "n": rawURL.EncodeToString(stranger.N.Bytes()), "e": "AQAB"}}
		}, "attestation-service-untrusted"},
		"a token that is none": {func() { a.mangle = func(string) string { return "x.y" } }, "attestation-service-untrusted"},
		"a huge token":         {func() { a.mangle = func(s string) string { return s + strings.Repeat("A", 70<<10) } }, "attestation-service-untrusted"},
		"no token":             {func() { a.mangle = func(string) string { return "" } }, "attestation-service-untrusted"},
		"a policy that fails":  {func() { a.policy = false }, "attestation-service-refused"},
	} {
		a.set(tc.set)
		_, r := w.taHandshake("tdx", doc, good)
		if r.status != 403 || r.err.Reason != tc.reason {
			t.Errorf("%s: %d %s", what, r.status, r.body)
		}
		if strings.Contains(string(r.body), taKey) {
			t.Errorf("%s: the API key is in the answer", what)
		}
		a.set(func() { a.change, a.sign, a.head, a.mangle, a.policy = nil, nil, nil, nil, true })
	}
	// What is true and not good enough.
	for what, tc := range map[string]struct {
		change func(map[string]any)
		status string
	}{
		"debug":                   {tdx(func(m map[string]any) { m["tdx_is_debuggable"] = true }), "warning"},
		"debug by its attributes": {tdx(func(m map[string]any) { m["tdx_td_attributes_debug"] = true }), "warning"},
		"debug by the status":     {tdx(func(m map[string]any) { m["dbgstat"] = "enabled" }), "warning"},
		"no word of debug":        {tdx(func(m map[string]any) { delete(m, "tdx_is_debuggable") }), "warning"},
		"hardening needed":        {tdx(func(m map[string]any) { m["attester_tcb_status"] = "SWHardeningNeeded" }), "warning"},
		"out of date":             {tdx(func(m map[string]any) { m["attester_tcb_status"] = "OutOfDate" }), "contraindicated"},
		"no word of the TCB":      {tdx(func(m map[string]any) { delete(m, "attester_tcb_status") }), "contraindicated"},
	} {
		a.set(func() { a.change = tc.change })
		c, r := w.taHandshake("tdx", doc, good)
		if r.status != 200 {
			t.Errorf("%s: %d %s", what, r.status, r.body)
			continue
		}
		cpu := tokenPayload(t, c.token)["submods"].(map[string]any)["cpu0"].(map[string]any)
		if cpu["ear.status"] != tc.status {
			t.Errorf("%s: %v", what, cpu["ear.status"])
		}
		denied(t, w, c.get(secretName), 403, "status-unacceptable")
	}
	a.set(func() { a.change = nil })

	// Other TEEs, and clients whose hash it does not take.
	for extra, want := range map[string]string{
		`{"supported-hash-algorithms":["sha384"]}`: "hash-algorithm-unusable", `{"supported-hash-algorithms":[]}`: "hash-algorithm-unusable", `{"supported-hash-algorithms":1}`: "hash-algorithm-unusable",
	} {
		if r := w.client("").auth("tdx", extra); r.status != 403 || r.err.Reason != want {
			t.Errorf("%s: %d %s", extra, r.status, r.body)
		}
	}
	if r := w.client("").auth("snp", `""`); r.status != 403 || r.err.Reason != "tee-unsupported" {
		t.Errorf("snp: %d %s", r.status, r.body)
	}
	for _, extra := range []string{`""`, `null`, `{"supported-hash-algorithms":null}`, `{"supported-hash-algorithms":""}`} { // the general challenge, as published
		c := w.client("")
		if r := c.auth("tdx", extra); r.status != 200 || string(c.extra) != `""` {
			t.Errorf("%s: %d %s", extra, r.status, r.body)
		}
		if r := c.attest(good(c), doc); r.status != 403 || r.err.Reason != "hash-algorithm-unusable" {
			t.Errorf("%s: %d %s", extra, r.status, r.body)
		}
	}
	// Not before the namespace has said that it takes what nobody has proven.
	w.admin.must("PUT", "/namespaces/default/allow-unproven", map[string]any{"allow_unproven": []string{}})
	if _, r := w.taHandshake("tdx", doc, good); r.status != 403 || r.err.Reason != "unproven-verifier" {
		t.Errorf("unproven: %d %s", r.status, r.body)
	}
}

func TestTrustAuthoritySGX(t *testing.T) {
	a := newAuthorityService(t)
	w := newTAWorld(t, a)
	w.taKeysTried()
	doc, digest := documentOf(t, initdata.SHA512)
	w.admin.put("default", secretName, "hunter2")
	w.admin.must("POST", "/namespaces/default/bindings/"+secretName, map[string]any{"initdata": []string{digest}})
	c, r := w.taHandshake("sgx", doc, func(c *rcar) string {
		q := make([]byte, 500)
		d, _ := hex.DecodeString(strings.TrimPrefix(digest, "sha512:"))
		copy(q[240:], d)
		s := sha256.Sum256([]byte(c.runtimeData()))
		copy(q[368:], s[:])
		return fmt.Sprintf(`{"quote":%q}`, base64.StdEncoding.EncodeToString(q))
	})
	if r.status != 200 || string(c.extra) != `{"selected-hash-algorithm":"sha256"}` {
		t.Fatalf("%s %d %s", c.extra, r.status, r.body)
	}
	if got := c.get(secretName); got.status != 200 || string(c.open(got.body)) != "hunter2" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// TestTrustAuthorityWithoutPolicies affirms nobody whom no policy has looked at.
func TestTrustAuthorityWithoutPolicies(t *testing.T) {
	for what, change := range map[string]func(*trustauthority.Options){
		"no policy":            func(o *trustauthority.Options) { o.Policies = nil },
		"unmatched is allowed": func(o *trustauthority.Options) { o.AllowUnmatched = true },
	} {
		a := newAuthorityService(t)
		a.policy = false
		w := newTAWorld(t, a, change)
		w.taKeysTried()
		doc, digest := documentOf(t, initdata.SHA384)
		w.admin.put("default", secretName, "hunter2")
		w.admin.must("POST", "/namespaces/default/bindings/"+secretName, map[string]any{"initdata": []string{digest}})
		c, r := w.taHandshake("tdx", doc, func(c *rcar) string {
			s := sha512.Sum512([]byte(c.runtimeData()))
			return tdxEvidence(strings.TrimPrefix(digest, "sha384:"), s[:])
		})
		if r.status != 200 {
			t.Fatalf("%s: %d %s", what, r.status, r.body)
		}
		denied(t, w, c.get(secretName), 403, "status-unacceptable")
	}
}

// TestTrustAuthorityAway has the service, its keys and its clock fail: nobody is let in,
// nobody waits for long, and all goes on when it is back.
func TestTrustAuthorityAway(t *testing.T) {
	a := newAuthorityService(t)
	a.away = true
	w := newTAWorld(t, a)
	w.taKeysTried()
	doc, digest := documentOf(t, initdata.SHA384)
	try := func() *answer {
		begun := time.Now()
		_, r := w.taHandshake("tdx", doc, func(c *rcar) string {
			s := sha512.Sum512([]byte(c.runtimeData()))
			return tdxEvidence(strings.TrimPrefix(digest, "sha384:"), s[:])
		})
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		return r
	}
	if r := try(); r.status != 403 || r.err.Reason != "attestation-service-untrusted" {
		t.Errorf("without keys: %d %s", r.status, r.body)
	} else if d := w.admin.record(r.err.Record).Denial; !strings.Contains(d.Measured, "503") {
		t.Errorf("%+v", d)
	}
	for status, want := range map[int]int{500: 503, 503: 503, 429: 503, 401: 503, 400: 403, 302: 503, 204: 503} {
		a.set(func() { a.status = status })
		if r := try(); r.status != want {
			t.Errorf("%d: %d %s", status, r.status, r.body)
		}
	}
	a.set(func() { a.status, a.hang = 0, 4*time.Second })
	if r := try(); r.status != 503 || r.err.Reason != "attestation-service-unavailable" {
		t.Errorf("hanging: %d %s", r.status, r.body)
	}
	a.http.CloseClientConnections()
	// Another namespace is judged here, whatever the service does.
	if r := w.client("sim").auth(fakeTEE, `""`); r.status != 200 {
		t.Errorf("another namespace: %d", r.status)
	}
	asked := a.asked.Load()
	if a.http.Close(); asked == 0 {
		t.Error("nobody asked")
	}
	if r := try(); r.status != 503 {
		t.Errorf("gone: %d %s", r.status, r.body)
	}
}

// TestTrustAuthorityOptions refuses what could not work, or would tell the world.
func TestTrustAuthorityOptions(t *testing.T) {
	good := trustauthority.Options{URL: "https://192.0.2.1", APIKey: "k", Keys: "https://192.0.2.1"}
	for what, change := range map[string]func(*Config){
		"no key":             func(c *Config) { c.Remote.TrustAuthority.APIKey = "" },
		"a key of two lines": func(c *Config) { c.Remote.TrustAuthority.APIKey = "a\r\nb: c" },
		"no key set":         func(c *Config) { c.Remote.TrustAuthority.Keys = "" },
		"no such key set":    func(c *Config) { c.Remote.TrustAuthority.Keys = "/none" },
		"no TLS":             func(c *Config) { c.Remote.TrustAuthority.URL = "http://192.0.2.1" },
		"keys without TLS":   func(c *Config) { c.Remote.TrustAuthority.Keys = "http://192.0.2.1" },
		"no URL":             func(c *Config) { c.Remote.TrustAuthority.URL = "example.io" },
		"a strange policy":   func(c *Config) { c.Remote.TrustAuthority.Policies = []string{"x"} },
		"a long timeout":     func(c *Config) { c.Remote.TrustAuthority.Timeout = time.Hour },
		"no such namespace":  func(c *Config) { c.Remote.Namespace = "none" },
		"a role":             func(c *Config) { c.Role, c.Services.Attestation = RoleAttestation, "127.0.0.1:0" },
	} {
		c := Config{State: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Now: time.Now}
		c.Remote.TrustAuthority = good
		change(&c)
		if s, err := Start(t.Context(), c); err == nil {
			t.Errorf("%s: started", what)
			_ = s.Close(t.Context())
		}
	}
}
