package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/cofferproject/coffer/api/aspb"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/remoteas"
)

// file writes a file of the test.
func file(t testing.TB, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// pairFiles writes a certificate and its key.
func pairFiles(t testing.TB, c tls.Certificate) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})),
		file(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// serviceClient is a client of one of the published services with a certificate.
func (w *world) serviceClient(url string, a *authority) *wireClient {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.s.keys.CAPEM)
	return newWireClient(w.t, url, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{a.issue(x509.ExtKeyUsageClientAuth)}})
}

// apart is a KBS and an Attestation Service, each a trustee with a state of its own,
// that know each other by certificates.
type apart struct {
	kbs, as *world
	peer    remoteas.Peer
	tokens  remoteas.Sources
}

func newApart(t *testing.T, change ...func(*Config)) *apart {
	t.Helper()
	callers := newAuthority(t, "callers")
	a := &apart{as: newWorld(t, func(c *Config) {
		c.Role, c.Services = RoleAttestation, Services{Attestation: "127.0.0.1:0", ClientCA: callers.file}
	})}
	ca := file(t, "as-ca.pem", a.as.s.keys.CAPEM)
	a.peer = remoteas.Peer{Address: a.as.s.Client().AttestationURL, CA: ca}
	a.peer.Certificate, a.peer.Key = pairFiles(t, callers.issue(x509.ExtKeyUsageClientAuth))
	a.tokens.Certificates = []string{ca}
	a.kbs = newWorld(t, func(c *Config) {
		c.Role, c.Verifiers, c.Remote = RoleKBS, nil, Remote{Peer: a.peer, Tokens: a.tokens, timeout: 2 * time.Second}
		for _, f := range change {
			f(c)
		}
	})
	return a
}

// The KBS of one process releases on what the Attestation Service of another has
// judged, to the pod that the secret is bound to and to nobody else.
func TestAnotherProcessJudges(t *testing.T) {
	a := newApart(t)
	doc := document(t, "pod a")
	a.kbs.bindSecret("default", secretName, "hunter2", doc)
	c := a.kbs.client("")
	c.handshake(doc)
	if got := c.open(c.get(secretName).body); string(got) != "hunter2" {
		t.Errorf("secret %q", got)
	}
	// The token is the KBS's own, and says who has judged.
	claims := tokenPayload(t, c.token)
	if claims["iss"] != "Coffer-KBS" || claims["aud"] != "coffer-trustee/ns/default" {
		t.Errorf("token %v", claims)
	}
	if l := a.as.audit("attest"); len(l) != 1 || !strings.HasPrefix(fmt.Sprint(l[0]["actor"]), "cert:") {
		t.Errorf("audit of the attestation service: %v", l)
	}
	if l := a.kbs.audit("release"); len(l) != 1 || l[0]["initdata"] != "sha256:"+digestOf(doc) {
		t.Errorf("audit of the KBS: %v", l)
	}

	other := document(t, "pod b")
	c = a.kbs.client("")
	c.handshake(other)
	denied(t, a.kbs, c.get(secretName), 403, "secret-unbound")

	for name, evil := range map[string]func(*fakeEvidence){
		"another session's report data": func(e *fakeEvidence) { e.ReportData = strings.Repeat("0", 96) },
		"initdata that it has not":      func(e *fakeEvidence) { e.Initdata = digestOf(other) },
		"simulated":                     func(e *fakeEvidence) { e.Simulated = true },
	} {
		c := a.kbs.client("")
		c.auth(fakeTEE, `""`)
		r := c.attest(c.fake(doc, evil), doc)
		if r.status != 403 || r.err.Reason != "attestation-service-refused" {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	c = a.kbs.client("")
	c.handshake(doc, func(e *fakeEvidence) { e.Hardware = 97 })
	denied(t, a.kbs, c.get(secretName), 403, "status-unacceptable")

	// Secrets and handshakes are the KBS's alone.
	if r := a.as.client("").do("POST", "/auth", []byte(`{}`)); r.status != 404 {
		t.Errorf("handshake at the attestation service: %d", r.status)
	}
}

// tokenPayload decodes without verifying.
func tokenPayload(t testing.TB, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("token %q", token)
	}
	b, err := rawURL.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// A service that is gone or hangs lets nobody in, and holds nothing up; when it is
// back the KBS asks it again.
func TestAttestationServiceGone(t *testing.T) {
	a := newApart(t)
	doc := document(t, "pod a")
	a.kbs.bindSecret("default", secretName, "hunter2", doc)
	try := func() *answer {
		c := a.kbs.client("")
		c.auth(fakeTEE, `""`)
		return c.attest(c.fake(doc), doc)
	}
	if r := try(); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	addr := strings.TrimPrefix(a.peer.Address, "https://")
	a.as.stop()
	if r := try(); r.status != 503 || r.err.Reason != "attestation-service-unavailable" || strings.Contains(string(r.body), addr) {
		t.Errorf("gone: %d %s", r.status, r.body)
	}
	silent, err := net.Listen("tcp", addr) // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if r := try(); r.status != 503 || time.Since(begin) > 10*time.Second {
		t.Errorf("hangs: %d %s after %s", r.status, r.body, time.Since(begin))
	}
	silent.Close()
	a.as.cfg.Services.Attestation = addr
	a.as.start()
	for range 30 {
		if r := try(); r.status == 200 {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	t.Error("not asked again")
}

// Who cannot be authenticated is not asked, and whose tokens nobody trusts is not
// believed.
func TestAttestationServiceOfStrangers(t *testing.T) {
	stranger := newAuthority(t, "stranger")
	ca := file(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: stranger.cert.Raw}))
	for name, tc := range map[string]struct {
		change func(*Config)
		reason string
	}{
		"its TLS certificate": {func(c *Config) { c.Remote.Peer.CA = ca }, "attestation-service-unavailable"},
		"its tokens":          {func(c *Config) { c.Remote.Tokens.Certificates = []string{ca} }, "attestation-service-untrusted"},
		"this KBS as a client": {func(c *Config) {
			c.Remote.Peer.Certificate, c.Remote.Peer.Key = pairFiles(t, stranger.issue(x509.ExtKeyUsageClientAuth))
		}, "attestation-service-unavailable"},
		"a namespace of its own":  {func(c *Config) { c.Remote.Namespace = "sim" }, ""},
		"nothing: the same again": {func(*Config) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApart(t, tc.change)
			doc := document(t, "pod a")
			ns := a.kbs.cfg.Remote.Namespace
			c := a.kbs.client(ns)
			c.auth(fakeTEE, `""`)
			r := c.attest(c.fake(doc), doc)
			want := tc.reason
			if ns == "sim" {
				want = "attestation-service-untrusted" // of namespace default, and not simulated
			}
			if r.err.Reason != want || (r.status == 200) != (want == "") {
				t.Errorf("%d %s", r.status, r.body)
			}
		})
	}
	for name, p := range map[string]remoteas.Peer{
		"plain text on a network": {Address: "http://192.0.2.1:50004"}, "TLS without certificates": {Address: "https://192.0.2.1:50004"},
		"no port": {Address: "https://192.0.2.1"}, "another scheme": {Address: "unix:///run/as.sock"},
	} {
		c := Config{State: t.TempDir(), Listen: "127.0.0.1:0", Log: discard, Now: time.Now, Remote: Remote{Peer: p, Tokens: remoteas.Sources{Certificates: []string{ca}}}}
		if s, err := Start(t.Context(), c); err == nil {
			s.Close(t.Context())
			t.Errorf("%s: starts", name)
		}
	}
	c := Config{State: t.TempDir(), Listen: "127.0.0.1:0", Log: discard, Now: time.Now, Remote: Remote{Peer: remoteas.Peer{Address: "http://127.0.0.1:1"}}}
	if s, err := Start(t.Context(), c); err == nil {
		s.Close(t.Context())
		t.Error("starts without anybody whose tokens it trusts")
	}
}

// publishedAS plays the existing Attestation Service: it judges as told, and signs
// tokens that have none of Coffer's additions.
type publishedAS struct {
	aspb.UnimplementedAttestationServiceServer
	key    *ecdsa.PrivateKey
	change func(*ear.Claims)
	tee    string
	claims map[string]any
	init   string
	last   string // token
}

// AttestationEvaluate signs what the test wants.
func (p *publishedAS) AttestationEvaluate(_ context.Context, m *aspb.AttestationRequest) (*aspb.AttestationResponse, error) {
	var rt map[string]any
	if err := json.Unmarshal([]byte(m.VerificationRequests[0].GetStructuredRuntimeData()), &rt); err != nil {
		return nil, err
	}
	now := time.Now()
	c := &ear.Claims{
		Profile: ear.Profile, IssuedAt: now.Unix(), Expires: now.Add(5 * time.Minute).Unix(), Issuer: "CoCo-Attestation-Service",
		VerifierID: ear.VerifierID{Developer: "https://confidentialcontainers.org", Build: "attestation-service 0.1.0"},
		Submods: map[string]ear.Submod{"cpu0": {
			Vector: ear.Vector{Hardware: 2, Executables: 3, Configuration: 2}, PolicyID: m.PolicyIds[0],
			Evidence: map[string]any{p.tee: p.claims, "report_data": "00", "init_data": p.init, "runtime_data_claims": rt},
		}},
	}
	if p.change != nil {
		p.change(c)
	}
	s, err := ear.NewSigner(p.key, nil)
	if err != nil {
		return nil, err
	}
	p.last, err = s.Sign(c)
	return &aspb.AttestationResponse{AttestationToken: p.last}, err
}

// newPublished starts it on loopback, as published without TLS.
func newPublished(t *testing.T) (*publishedAS, Remote) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &publishedAS{key: key, tee: "snp", claims: map[string]any{"policy_debug_allowed": false}}
	j, err := ear.NewJWK(&key.PublicKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	set, err := ear.MarshalJWKS(j)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	aspb.RegisterAttestationServiceServer(g, p)
	go g.Serve(ln)
	t.Cleanup(g.Stop)
	return p, Remote{
		Peer:   remoteas.Peer{Address: "http://" + ln.Addr().String()},
		Tokens: remoteas.Sources{KeySets: []string{"file://" + file(t, "jwks.json", set)}},
	}
}

// What the existing service says is believed as far as it goes: it does not say what
// initdata it found, so that comes from the register that the evidence's signature
// covers, and of TEEs whose root it does not verify nothing is taken.
func TestPublishedAttestationService(t *testing.T) {
	p, r := newPublished(t)
	w := newWorld(t, func(c *Config) { c.Verifiers, c.Remote = nil, r })
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	p.init = digestOf(doc)
	attest := func() (*rcar, *answer) {
		c := w.client("")
		c.auth(p.tee, `""`)
		return c, c.attest(`{}`, doc)
	}
	c, a := attest()
	if a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if got := c.open(c.get(secretName).body); string(got) != "hunter2" {
		t.Errorf("secret %q", got)
	}

	// The existing service does not know what devices an owner demands.
	demanding := []byte(strings.Replace(string(doc), "[token_configs]", "additional_devices = [\"nvidia\"]\n[token_configs]", 1))
	if d := w.client(""); string(demanding) != string(doc) {
		d.auth(p.tee, `""`)
		if a := d.attest(`{}`, demanding); a.status != 403 || a.err.Reason != "device-missing" {
			t.Errorf("without a device that the owner demands: %d %s", a.status, a.body)
		}
	} else {
		t.Errorf("the document demands nothing: %s", doc)
	}

	// Its token is a passport here: without a session, with the TEE key that it names.
	passport := p.last
	if got := c.open(w.client("").get(secretName, "Authorization", "Bearer "+passport).body); string(got) != "hunter2" {
		t.Errorf("by passport: %q", got)
	}
	stranger, _ := newPublished(t)
	stranger.init = p.init
	genuine := *p.key
	*p.key = *stranger.key
	if _, a := attest(); a.status != 403 || a.err.Reason != "attestation-service-untrusted" {
		t.Errorf("signed by a stranger: %d %s", a.status, a.body)
	}
	denied(t, w, w.client("").get(secretName, "Authorization", "Bearer "+p.last), 401, "token-invalid")
	*p.key = genuine
	denied(t, w, w.client("sim").get(secretName, "Authorization", "Bearer "+passport), 401, "token-invalid")

	for name, tc := range map[string]struct {
		do     func(*ear.Claims)
		tee    string
		init   string
		debug  bool
		reason string // at attestation; else of the release
		later  string
	}{
		"another nonce": {do: func(c *ear.Claims) {
			c.Submods["cpu0"].Evidence["runtime_data_claims"].(map[string]any)["nonce"] = "x"
		}, reason: "attestation-service-untrusted"},
		"another key": {do: func(c *ear.Claims) {
			c.Submods["cpu0"].Evidence["runtime_data_claims"].(map[string]any)["tee-pubkey"] = map[string]any{"kty": "EC"}
		}, reason: "attestation-service-untrusted"},
		"no runtime data": {do: func(c *ear.Claims) { delete(c.Submods["cpu0"].Evidence, "runtime_data_claims") }, reason: "attestation-service-untrusted"},
		"old":             {do: func(c *ear.Claims) { c.IssuedAt -= 600 }, reason: "attestation-service-untrusted"},
		"expired":         {do: func(c *ear.Claims) { c.IssuedAt, c.Expires = c.IssuedAt-600, c.Expires-600 }, reason: "attestation-service-untrusted"},
		"another TEE": {do: func(c *ear.Claims) {
			e := c.Submods["cpu0"].Evidence
			e["tdx"] = e["snp"]
			delete(e, "snp")
		}, reason: "attestation-service-untrusted"},
		"a device that nobody asked about": {do: func(c *ear.Claims) { c.Submods["gpu0"] = c.Submods["cpu0"] }, later: ""},
		"a TPM, of which it knows no root": {tee: "tpm", reason: "attestation-service-untrusted"},
		"a sample":                         {tee: "sample", reason: "attestation-service-untrusted"},
		"an empty register":                {init: strings.Repeat("0", 64), later: "initdata-unbound"},
		"another pod's register":           {init: strings.Repeat("1", 64), later: "secret-unbound"},
		"a debug guest":                    {debug: true, later: "status-unacceptable"},
		"says what it cannot know": {do: func(c *ear.Claims) {
			m := c.Submods["cpu0"]
			m.Coffer = &ear.Additions{TEE: "snp", Namespace: "other", Initdata: &ear.Digest{Algorithm: "sha256", Hex: p.init}}
			c.Submods["cpu0"] = m
		}, reason: "attestation-service-untrusted"},
		"unaccepted": {do: func(c *ear.Claims) {
			m := c.Submods["cpu0"]
			m.Vector.Executables = 33
			c.Submods["cpu0"] = m
		}, later: "status-unacceptable"},
	} {
		t.Run(name, func(t *testing.T) {
			p.change, p.tee, p.init, p.claims = tc.do, "snp", digestOf(doc), map[string]any{"policy_debug_allowed": tc.debug}
			if tc.tee != "" {
				p.tee = tc.tee
			}
			if tc.init != "" {
				p.init = tc.init
			}
			c, a := attest()
			switch {
			case tc.reason != "":
				if a.status != 403 || a.err.Reason != tc.reason {
					t.Errorf("%d %s", a.status, a.body)
				}
			case a.status != 200:
				t.Errorf("%d %s", a.status, a.body)
			case tc.later != "":
				denied(t, w, c.get(secretName), 403, tc.later)
			}
		})
	}
}

// Reference values may be a process of their own: the policy of the Attestation
// Service asks it, and without an answer nothing is judged.
func TestReferenceValuesOfAnotherProcess(t *testing.T) {
	callers, admins := newAuthority(t, "callers"), newAuthority(t, "admins")
	rvps := newWorld(t, func(c *Config) {
		c.Role, c.Services = RoleReference, Services{Reference: "127.0.0.1:0", ClientCA: callers.file, AdminCA: admins.file}
	})
	owner := rvps.serviceClient(rvps.s.Client().ReferenceURL, admins)
	register := func(value string) {
		t.Helper()
		m := `{"version":"0.1.0","type":"sample","payload":"` + base64.StdEncoding.EncodeToString([]byte(value)) + `"}`
		if _, _, status, text := owner.call(registerMethod, message{{1, m}}); status != grpcOK {
			t.Fatalf("register: %d %s", status, text)
		}
	}
	peer := remoteas.Peer{Address: rvps.s.Client().ReferenceURL, CA: file(t, "ca.pem", rvps.s.keys.CAPEM)}
	peer.Certificate, peer.Key = pairFiles(t, callers.issue(x509.ExtKeyUsageClientAuth))
	as := newWorld(t, loopback, func(c *Config) { c.Role, c.Remote.ReferenceValues = RoleAttestation, peer; c.Services.Reference = "" })
	asking := `package policy
import rego.v1
default executables := 33
executables := 3 if input.faketee.fact in query_reference_value("facts")
trust_claims := {"executables": executables, "hardware": 2, "configuration": 2}
`
	if status, b := as.admin.do("PUT", "/namespaces/default/policies/default_cpu", []byte(asking)); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	evidence, runtime := as.session("n")
	judge := func() (string, string) {
		t.Helper()
		token, _, status, text := as.as().call(evaluateMethod, message{{1, message{{1, fakeTEE}, {3, b64url([]byte(evidence))}, {5, runtime}}}})
		if status != grpcOK {
			return "", text
		}
		return fmt.Sprint(as.as().verified(token)["submods"].(map[string]any)["cpu0"].(map[string]any)["ear.status"]), ""
	}
	if s, text := judge(); s != "warning" {
		t.Errorf("without a value: %s %s", s, text)
	}
	register(`{"facts":["yes"]}`)
	as.clock.advance(10 * time.Second) // answers are kept for a few seconds
	if s, text := judge(); s != "affirming" {
		t.Errorf("with the value: %s %s", s, text)
	}
	if v, ok, status, text := as.as().call(queryMethod, message{{1, "facts"}}); status != grpcOK || !ok || v != `["yes"]` {
		t.Errorf("query by the attestation service: %d %s %s", status, v, text)
	}
	rvps.stop()
	if s, text := judge(); s != "affirming" {
		t.Errorf("within seconds: %s %s", s, text)
	}
	as.clock.advance(10 * time.Second)
	if s, text := judge(); s != "" || !strings.Contains(text, "reference-values-unavailable") {
		t.Errorf("without the service: %s %s", s, text)
	}
}

// apartEnv tells a process which of the services it is.
const apartEnv = "COFFER_TEST_APART"

// apartDoc is what a service needs to know of the others.
type apartDoc struct {
	Role     Role
	Services Services
	Remote   Remote
}

// apartFrom adds it to a configuration.
func apartFrom(doc string, c Config) Config {
	if doc == "" {
		return c
	}
	var d apartDoc
	if err := json.Unmarshal([]byte(doc), &d); err != nil {
		panic(err)
	}
	if c.Role, c.Services, c.Remote = d.Role, d.Services, d.Remote; d.Role != RoleAttestation {
		delete(c.Verifiers, fakeTEE)
	}
	return c
}

// KBS, Attestation Service and Reference Value Provider Service in three processes:
// a pod gets its secret on a reference value of the third, and nobody does when the
// second was killed.
func TestThreeProcesses(t *testing.T) {
	callers, admins := newAuthority(t, "callers"), newAuthority(t, "admins")
	start := func(d apartDoc) (*exec.Cmd, trusteeapi.ClientConfig, *adminClient) {
		t.Helper()
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		cmd, cfg := child(t, t.TempDir(), apartEnv+"="+string(b))
		a := newAdminClient(t, &Server{admin: cfg.AdminKeyPath, keys: keysOf(cfg)})
		a.url = cfg.URL
		return cmd, cfg, a
	}
	peer := func(url, ca string) remoteas.Peer {
		p := remoteas.Peer{Address: url, CA: file(t, "ca.pem", []byte(ca))}
		p.Certificate, p.Key = pairFiles(t, callers.issue(x509.ExtKeyUsageClientAuth))
		return p
	}
	_, rvps, _ := start(apartDoc{Role: RoleReference, Services: Services{Reference: "127.0.0.1:0", ClientCA: callers.file, AdminCA: admins.file}})
	process, as, asAdmin := start(apartDoc{
		Role: RoleAttestation, Services: Services{Attestation: "127.0.0.1:0", ClientCA: callers.file},
		Remote: Remote{ReferenceValues: peer(rvps.ReferenceURL, rvps.CAPEM)},
	})
	_, kbs, owner := start(apartDoc{Role: RoleKBS, Remote: Remote{
		Peer: peer(as.AttestationURL, as.CAPEM), Tokens: remoteas.Sources{Certificates: []string{file(t, "as.pem", []byte(as.CAPEM))}},
	}})
	policy := strings.Replace(fakePolicy(), "executables := 3 if input.faketee", `executables := 3 if input.faketee.fact in query_reference_value("facts")`, 1)
	if status, b := asAdmin.do("PUT", "/namespaces/default/policies/default_cpu", []byte(policy)); status != 200 {
		t.Fatalf("policy: %d %s", status, b)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(rvps.CAPEM))
	m := `{"version":"0.1.0","type":"sample","payload":"` + base64.StdEncoding.EncodeToString([]byte(`{"facts":["yes"]}`)) + `"}`
	values := newWireClient(t, rvps.ReferenceURL, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{admins.issue(x509.ExtKeyUsageClientAuth)}})
	if _, _, status, text := values.call(registerMethod, message{{1, m}}); status != grpcOK {
		t.Fatalf("register: %d %s", status, text)
	}
	doc := document(t, "pod a")
	owner.put("default", secretName, "hunter2")
	owner.must("POST", "/namespaces/default/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
	c := newRCAR(t, kbs.CAPEM, kbs.URL)
	c.handshake(doc)
	a := c.get(secretName)
	if got := c.open(a.body); string(got) != "hunter2" {
		t.Fatalf("secret: %d %s", a.status, a.body)
	}
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c = newRCAR(t, kbs.CAPEM, kbs.URL)
	c.auth(fakeTEE, `""`)
	if r := c.attest(c.fake(doc), doc); r.status != 503 || r.err.Reason != "attestation-service-unavailable" {
		t.Errorf("after the kill: %d %s", r.status, r.body)
	}
}
