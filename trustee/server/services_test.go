package server

import (
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/collateral"
	snpverifier "github.com/cofferproject/coffer/tee/snp/verifier"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// gRPC status codes, by the protocol.
const (
	grpcOK              = 0
	grpcInvalidArgument = 3
	grpcPermission      = 7
	grpcUnimplemented   = 12
)

var discard = slog.New(slog.DiscardHandler)

// loopback serves both services without TLS.
func loopback(c *Config) { c.Services = Services{Attestation: "127.0.0.1:0", Reference: "127.0.0.1:0"} }

func (w *world) as() *wireClient { return newWireClient(w.t, w.s.Client().AttestationURL, nil) }

// session is evidence of the fake TEE for structured runtime data of the caller.
func (w *world) session(nonce string, mutate ...func(*fakeEvidence)) (evidence, runtime string) {
	c := &rcar{t: w.t}
	c.newKey()
	runtime = fmt.Sprintf(`{"tee-pubkey":%s,  "nonce":%q}`, c.jwk(), nonce)
	sum := sha512.Sum384(fmt.Appendf(nil, `{"nonce":%q,"tee-pubkey":%s}`, nonce, c.jwk()))
	e := &fakeEvidence{ReportData: fmt.Sprintf("%x", sum), Hardware: 2}
	for _, m := range mutate {
		m(e)
	}
	e.sign()
	b, err := json.Marshal(e)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b), runtime
}

func restBody(tee, evidence, more string) string {
	return fmt.Sprintf(`{"verification_requests":[{"tee":%q,"evidence":%q%s}],"policy_ids":[]}`, tee, b64url([]byte(evidence)), more)
}

func TestAttestationService(t *testing.T) {
	w := newWorld(t, loopback)
	as := w.as()
	nonce, _, status, text := as.call(challengeMethod, message{{1, map[string]string{"tee": fakeTEE, "tee_params": ""}}})
	if raw, err := base64.StdEncoding.DecodeString(nonce); status != grpcOK || err != nil || len(raw) != 32 {
		t.Fatalf("challenge: %d %s %q", status, text, nonce)
	}
	evidence, runtime := w.session(nonce)
	byGRPC, _, status, text := as.call(evaluateMethod, message{{1, message{{1, fakeTEE}, {3, b64url([]byte(evidence))}, {5, runtime}}}, {2, "default"}})
	if status != grpcOK {
		t.Fatalf("evaluate: %d %s", status, text)
	}
	code, byREST := as.rest("POST", "/attestation", restBody(fakeTEE, evidence, `,"runtime_data":{"structured":`+runtime+`}`))
	if code != 200 {
		t.Fatalf("REST: %d %s", code, byREST)
	}
	for name, token := range map[string]string{"gRPC": byGRPC, "REST": byREST} {
		p := as.verified(token)
		cpu := p["submods"].(map[string]any)["cpu0"].(map[string]any)
		if p["eat_profile"] != "tag:github.com,2024:confidential-containers/Trustee" || cpu["ear.status"] != "affirming" || cpu["ear.appraisal-policy-id"] != "default" {
			t.Errorf("%s: %v", name, p)
		}
		claims := cpu["ear.veraison.annotated-evidence"].(map[string]any)["runtime_data_claims"].(map[string]any)
		if claims["nonce"] != nonce || claims["tee-pubkey"].(map[string]any)["kty"] != "EC" {
			t.Errorf("%s: runtime data %v", name, claims)
		}
	}
	if l := w.audit("attest"); len(l) != 2 || l[0]["action"] != "attestation-service" || l[0]["status"] != "affirming" {
		t.Errorf("audit: %v", l)
	}

	// Whoever asked has chosen nonce and key, so this trustee releases nothing on it.
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("")
	denied(t, w, c.get(secretName, "Authorization", "Bearer "+byGRPC), 401, "token-namespace")

	// The record has the whole story.
	if r := w.admin.record(w.audit("attest")[0]["record"].(string)); r.Outcome != trusteeapi.OutcomeGranted || len(r.Appraisals) != 1 {
		t.Errorf("record %+v", r)
	}
}

func TestAttestationServiceRefuses(t *testing.T) {
	w := newWorld(t, loopback)
	as := w.as()
	evidence, runtime := w.session("n")
	other, _ := w.session("n")
	good := message{{1, fakeTEE}, {3, b64url([]byte(evidence))}, {5, runtime}}
	with := func(n int, v string) message {
		var out message
		for _, f := range good {
			if f.n != n {
				out = append(out, f)
			}
		}
		return append(out, field{n, v})
	}
	for name, tc := range map[string]struct {
		m      message
		status int
		text   string
	}{
		"another session":       {message{{1, with(3, b64url([]byte(other)))}}, grpcPermission, "fake-report-data"},
		"no runtime data":       {message{{1, good[:2]}}, grpcPermission, "runtime-data-missing"},
		"short raw data":        {message{{1, append(message{{4, b64url([]byte("short"))}}, good[:2]...)}}, grpcPermission, "runtime-data-unusable"},
		"raw data that is cut":  {message{{1, append(message{{4, b64url(make([]byte, 65))}}, good[:2]...)}}, grpcPermission, "runtime-data-unusable"},
		"runtime data no JSON":  {message{{1, with(5, "{")}}, grpcPermission, "runtime-data-unusable"},
		"runtime data a list":   {message{{1, with(5, "[1]")}}, grpcPermission, "runtime-data-unusable"},
		"hash algorithm":        {message{{1, with(8, "md5")}}, grpcPermission, "runtime-data-unusable"},
		"another hash":          {message{{1, with(8, "sha256")}}, grpcPermission, "fake-report-data"},
		"digest alone":          {message{{1, with(6, b64url(make([]byte, 32)))}}, grpcPermission, "initdata-digest-unsupported"},
		"other initdata":        {message{{1, with(7, "version = \"0.1.0\"")}}, grpcPermission, "initdata-mismatch"},
		"TEE":                   {message{{1, with(1, "sgx2")}}, grpcUnimplemented, "tee-unsupported"},
		"sample":                {message{{1, with(1, "sample")}}, grpcUnimplemented, "tee-unsupported"},
		"no TEE":                {message{{1, with(1, "")}}, grpcInvalidArgument, "tee"},
		"evidence no base64":    {message{{1, with(3, "%%")}}, grpcInvalidArgument, "base64url"},
		"evidence no JSON":      {message{{1, with(3, b64url([]byte("x")))}}, grpcInvalidArgument, "not JSON"},
		"unknown policy":        {message{{1, good}, {2, "mine"}}, grpcPermission, "policy-unknown"},
		"two policies":          {message{{1, good}, {2, "default"}, {2, "mine"}}, grpcInvalidArgument, "at most one"},
		"nothing":               {nil, grpcInvalidArgument, "none"},
		"a field nobody knows":  {message{{1, good}, {9, "x"}}, grpcInvalidArgument, "unknown field"},
		"field 2 of a request":  {message{{1, with(2, "x")}}, grpcInvalidArgument, "unknown field"},
		"more than a token has": {many(good, 65), grpcInvalidArgument, "at most 64"},
	} {
		t.Run(name, func(t *testing.T) {
			token, _, status, text := as.call(evaluateMethod, tc.m)
			if status != tc.status || !strings.Contains(text, tc.text) || token != "" {
				t.Errorf("status %d %q, want %d %q", status, text, tc.status, tc.text)
			}
		})
	}
	if _, _, status, text := as.call(challengeMethod, message{{1, map[string]string{"tee": "se"}}}); status != grpcPermission || !strings.Contains(text, "unproven-verifier") {
		t.Errorf("challenge for SE: %d %s", status, text)
	}
	for body, want := range map[string]string{
		`{"verification_requests":[]}`: "policy_ids",
		`{`:                            "request",
		`{"verification_requests":[],"policy_ids":[],"x":1}`:                                                                      "unknown field",
		restBody(fakeTEE, evidence, `,"runtime_data":{}`):                                                                         "neither or both",
		restBody(fakeTEE, evidence, `,"runtime_data":{"structured":`+runtime+`},"init_data":{}`):                                  "neither or both",
		restBody(fakeTEE, evidence, `,"runtime_data":{"structured":`+runtime+`}`) + `{}`:                                          "data after",
		strings.Replace(restBody(fakeTEE, evidence, `,"runtime_data":{"structured":`+runtime+`}`), "[]", `["default","mine"]`, 1): "at most one",
	} {
		if code, out := as.rest("POST", "/attestation", body); code != 400 || !strings.Contains(out, want) || !strings.Contains(out, `"type"`) {
			t.Errorf("%s: %d %s", body, code, out)
		}
	}
	if code, out := as.rest("POST", "/attestation", restBody(fakeTEE, other, `,"runtime_data":{"structured":`+runtime+`}`)); code != 403 || !strings.Contains(out, "fake-report-data") {
		t.Errorf("%d %s", code, out)
	}
	for method, m := range map[string]message{setPolicyMethod: {{1, "x_cpu"}, {3, "x"}}, challengeMethod: {{2, "x"}}, queryMethod: {{2, "x"}}, registerMethod: {{1, ""}, {2, "x"}}} {
		if _, _, status, text := as.call(method, m); status != grpcInvalidArgument || !strings.Contains(text, "unknown field") {
			t.Errorf("%s: %d %s", method, status, text)
		}
	}
	if l := w.audit("attest"); len(l) != 0 {
		t.Errorf("audit has %v", l)
	}
}

func many(m message, n int) (out message) {
	for range n {
		out = append(out, field{1, m})
	}
	return out
}

// A change of what evidence is judged by needs an administrator's certificate; the
// published services ask for none.
func TestServicesNeedCertificates(t *testing.T) {
	callers, admins, strangers := newAuthority(t, "callers"), newAuthority(t, "admins"), newAuthority(t, "strangers")
	w := newWorld(t, func(c *Config) {
		c.Services = Services{Attestation: "0.0.0.0:0", Reference: "0.0.0.0:0", ClientCA: callers.file, AdminCA: admins.file}
	})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.s.keys.CAPEM)
	dial := func(addr string, certs ...tls.Certificate) *wireClient {
		url := strings.Replace(addr, "[::]", "127.0.0.1", 1)
		url = strings.Replace(url, "0.0.0.0", "127.0.0.1", 1)
		return newWireClient(t, url, &tls.Config{RootCAs: pool, Certificates: certs})
	}
	client := callers.issue(x509.ExtKeyUsageClientAuth)
	admin := admins.issue(x509.ExtKeyUsageClientAuth)
	as, rvps := w.s.Client().AttestationURL, w.s.Client().ReferenceURL
	for name, certs := range map[string][]tls.Certificate{
		"none": nil, "a stranger's": {strangers.issue(x509.ExtKeyUsageClientAuth)}, "a server's": {admins.issue(x509.ExtKeyUsageServerAuth)},
	} {
		for _, url := range []string{as, rvps} {
			c := dial(url, certs...)
			if resp, err := c.http.Get(c.url + "/healthz"); err == nil {
				resp.Body.Close()
				t.Errorf("certificate %s: answered %d", name, resp.StatusCode)
			}
		}
	}

	evidence, runtime := w.session("n")
	policy := b64url([]byte("package policy\ntrust_claims := {\"hardware\": 97}\n"))
	value := base64.StdEncoding.EncodeToString([]byte(`{"snp_launch_measurement":["aa"],"svn":3}`))
	registration := message{{1, `{"version":"0.1.0","type":"sample","payload":"` + value + `"}`}}
	for _, tc := range []struct { // in this order: the administrator leaves a value
		name string
		cert tls.Certificate
		want int
	}{{"caller", client, grpcPermission}, {"administrator", admin, grpcOK}} {
		t.Run(tc.name, func(t *testing.T) {
			a, r := dial(as, tc.cert), dial(rvps, tc.cert)
			if _, _, status, text := a.call(evaluateMethod, message{{1, message{{1, fakeTEE}, {3, b64url([]byte(evidence))}, {5, runtime}}}}); status != grpcOK {
				t.Errorf("evaluate: %d %s", status, text)
			}
			if _, _, status, text := a.call(setPolicyMethod, message{{1, "strict_cpu"}, {2, policy}}); status != tc.want {
				t.Errorf("policy: %d %s", status, text)
			}
			if code, out := a.rest("POST", "/policy", `{"policy_id":"strict_cpu","policy":"`+policy+`"}`); code != map[int]int{grpcOK: 200, grpcPermission: 403}[tc.want] {
				t.Errorf("policy by REST: %d %s", code, out)
			}
			for _, c := range []*wireClient{a, r} { // the Attestation Service passes reference values on
				if _, _, status, text := c.call(registerMethod, registration); status != tc.want {
					t.Errorf("register: %d %s", status, text)
				}
			}
			got, ok, status, _ := r.call(queryMethod, message{{1, "snp_launch_measurement"}})
			if status != grpcOK || ok != (tc.want == grpcOK) || ok && got != `["aa"]` {
				t.Errorf("query: %d %t %s", status, ok, got)
			}
			if _, _, status, _ := r.call(evaluateMethod, message{{1, message{}}}); status != grpcUnimplemented {
				t.Errorf("the reference values' service judges evidence: %d", status)
			}
			// What is no policy or message is refused, with its cause.
			if tc.want == grpcOK {
				if _, _, status, text := a.call(setPolicyMethod, message{{1, "strict_cpu"}, {2, b64url([]byte("package other"))}}); status != grpcInvalidArgument {
					t.Errorf("malformed policy: %d %s", status, text)
				}
				if _, _, status, text := r.call(registerMethod, message{{1, `{"type":"slsa","payload":""}`}}); status != grpcInvalidArgument || !strings.Contains(text, "slsa") {
					t.Errorf("a type that is none: %d %s", status, text)
				}
				if _, out := a.rest("GET", "/policy", ""); !strings.Contains(out, `{"policy-id":"strict_cpu"}`) {
					t.Errorf("policies: %s", out)
				}
				token, _, status, text := a.call(evaluateMethod, message{{1, message{{1, fakeTEE}, {3, b64url([]byte(evidence))}, {5, runtime}}}, {2, "strict"}})
				if status != grpcOK {
					t.Fatalf("evaluate: %d %s", status, text)
				}
				if s := a.verified(token)["submods"].(map[string]any)["cpu0"].(map[string]any)["ear.status"]; s != "contraindicated" {
					t.Errorf("status %v by the policy that was set", s)
				}
			}
		})
	}
	var actions []string
	for _, e := range w.audit("admin") {
		if a, _ := e["actor"].(string); strings.HasPrefix(a, "cert:") {
			actions = append(actions, e["action"].(string))
		}
	}
	if n := len(actions); n != 6 {
		t.Errorf("audit has %q", actions)
	}
	if len(w.audit("denied")) == 0 {
		t.Error("the refusals are not in the audit log")
	}
}

// Nothing but loopback is served to peers that nobody has vouched for.
func TestServicesOffLoopback(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "example.com:0"} {
		for _, s := range []Services{{Attestation: addr}, {Reference: addr}} {
			c := Config{State: t.TempDir(), Listen: "127.0.0.1:0", Log: discard, Now: time.Now, Services: s}
			if srv, err := Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), "certificates") {
				t.Errorf("%+v: %v", s, err)
				if err == nil {
					srv.Close(t.Context())
				}
			}
		}
	}
	w := newWorld(t, loopback)
	if _, _, status, text := w.as().call(setPolicyMethod, message{{1, "default_cpu"}, {2, b64url([]byte(yes))}}); status != grpcPermission || !strings.Contains(text, "service-forbidden") {
		t.Errorf("policy without a certificate: %d %s", status, text)
	}
	if code, out := w.as().rest("POST", "/policy", `{"policy_id":"default_cpu","policy":"`+b64url([]byte(yes))+`"}`); code != 403 {
		t.Errorf("%d %s", code, out)
	}
}

// recordedSNP judges recorded evidence of real hardware, at a time when its
// certificates were good; revocation lists were not recorded.
func recordedSNP(*tenant.Trust, collateral.Source) (verify.Verifier, error) {
	v, err := snpverifier.New(verify.Config{Kind: verify.Production, InsecureSkipRevocation: true})
	return at{v}, err
}

type at struct{ verify.Verifier }

func (a at) Verify(in *verify.Input) ([]*verify.Result, error) {
	past := *in
	past.Now = time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC)
	return a.Verifier.Verify(&past)
}

// The other implementation's own request, made on real hardware, by both of its
// interfaces; it carries no runtime data, which takes the insecure switch.
func TestAttestationServiceVector(t *testing.T) {
	dir := vectors.Dir(t, "as")
	evidence, err := os.ReadFile(filepath.Join(dir, "evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	template, err := os.ReadFile(filepath.Join(dir, "request.json.template"))
	if err != nil {
		t.Fatal(err)
	}
	body := strings.NewReplacer("%TEE_NAME%", "snp", "%EVIDENCE%", b64url(evidence)).Replace(string(template))
	request := message{{1, message{{1, "snp"}, {3, b64url(evidence)}}}}

	strict := newWorld(t, loopback)
	if code, out := strict.as().rest("POST", "/attestation", body); code != 403 || !strings.Contains(out, "runtime-data-missing") {
		t.Errorf("without the switch: %d %s", code, out)
	}
	w := newWorld(t, loopback, func(c *Config) {
		c.Services.InsecureUnbound = true
		c.Verifiers["snp"] = recordedSNP
	})
	refs := `{"version":1,"provenance":{"tool":"test"},"sets":[],"values":{"snp_launch_measurement":["6a6519d757e68c2e939c9dbbbc1828498e8de35d2766dd05f1a2cca5059d0cf4ae62a36d75c837974dd50b315506e73e"],"snp_bootloader":[10],"snp_microcode":[25],"snp_snp_svn":[23],"snp_tee_svn":[0]}}`
	if status, out := w.admin.do("PUT", "/namespaces/default/reference-values/machine", []byte(refs)); status != 200 {
		t.Fatalf("%d %s", status, out)
	}
	byGRPC, _, status, text := w.as().call(evaluateMethod, request)
	if status != grpcOK {
		t.Fatalf("%d %s", status, text)
	}
	code, byREST := w.as().rest("POST", "/attestation", body)
	if code != 200 {
		t.Fatalf("%d %s", code, byREST)
	}
	for _, token := range []string{byGRPC, byREST} {
		cpu := w.as().verified(token)["submods"].(map[string]any)["cpu0"].(map[string]any)
		additions := cpu["ear.coffer"].(map[string]any)
		if cpu["ear.status"] != "affirming" || fmt.Sprint(additions["unbound"]) != "["+appraisal.UnboundRuntimeData+"]" {
			t.Errorf("%v", cpu)
		}
	}
	// The digest of initdata without its document: this guest was given none.
	bound := message{{1, append(message{{6, b64url([]byte(strings.Repeat("x", 32)))}}, request[0].v.(message)...)}}
	if _, _, status, text := w.as().call(evaluateMethod, bound); status != grpcPermission || !strings.Contains(text, "initdata-mismatch") {
		t.Errorf("digest: %d %s", status, text)
	}
}

func TestServicesNamespace(t *testing.T) {
	w := newWorld(t, loopback, func(c *Config) { c.Services.Namespace = "sim" })
	evidence, runtime := w.session("n", func(e *fakeEvidence) { e.Simulated = true })
	token, _, status, text := w.as().call(evaluateMethod, message{{1, message{{1, fakeTEE}, {3, b64url([]byte(evidence))}, {5, runtime}}}})
	if status != grpcOK {
		t.Fatalf("%d %s", status, text)
	}
	cpu := w.as().verified(token)["submods"].(map[string]any)["cpu0"].(map[string]any)
	if cpu["ear.status"] != "warning" || cpu["ear.coffer"].(map[string]any)["simulated"] != true {
		t.Errorf("simulated evidence: %v", cpu)
	}
	if _, err := Start(t.Context(), Config{State: t.TempDir(), Listen: "127.0.0.1:0", Log: discard, Now: time.Now, Services: Services{Attestation: "127.0.0.1:0", Namespace: "nobody"}}); err == nil {
		t.Error("served a namespace that nobody made")
	}
}

// Secure Execution through the Attestation Service: the challenge is the request to
// the ultravisor, and evidence answers that one alone.
func TestAttestationServiceSecureExecution(t *testing.T) {
	w := newWorld(t, loopback)
	m := seMachine(t, seTags(7))
	for name, doc := range map[string][]byte{"host-keys": hostKeyPEM(t, m.HostKey()), "image-header": seHeader(seTags(7))} {
		if status, b := w.admin.do("PUT", "/namespaces/default/anchors/se/"+name, doc); status != 200 {
			t.Fatalf("anchor %s: %d %s", name, status, b)
		}
	}
	w.admin.must("PUT", "/namespaces/default/allow-unproven", trusteeapi.AllowUnproven{AllowUnproven: []string{"se"}})
	ask := func() string {
		nonce, _, status, text := w.as().call(challengeMethod, message{{1, map[string]string{"tee": "se"}}})
		if status != grpcOK {
			t.Fatalf("challenge: %d %s", status, text)
		}
		return nonce
	}
	c := w.client("")
	c.nonce = ask()
	evidence := b64url([]byte(c.seEvidence(m, c.nonce)))
	token, _, status, text := w.as().call(evaluateMethod, message{{1, message{{1, "se"}, {3, evidence}, {5, c.runtimeData()}, {8, "sha512"}}}})
	if status != grpcOK {
		t.Fatalf("%d %s", status, text)
	}
	if cpu := w.as().verified(token)["submods"].(map[string]any)["cpu0"].(map[string]any); cpu["ear.veraison.annotated-evidence"].(map[string]any)["se"] == nil {
		t.Errorf("%v", cpu)
	}
	c.nonce = ask()
	if _, _, status, text := w.as().call(evaluateMethod, message{{1, message{{1, "se"}, {3, evidence}, {5, c.runtimeData()}, {8, "sha512"}}}}); status != grpcPermission {
		t.Errorf("an answer to another challenge: %d %s", status, text)
	}
}
