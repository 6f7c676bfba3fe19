package server

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// adminClient is an administrator.
type adminClient struct {
	t    testing.TB
	url  string
	key  crypto.Signer
	http *http.Client
	now  func() time.Time
}

func newAdminClient(t testing.TB, s *Server) *adminClient {
	t.Helper()
	key, err := readAdminKey(s.admin)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.keys.CAPEM)
	pool.AppendCertsFromPEM([]byte(s.anchorPEM()))
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(tr.CloseIdleConnections)
	a := &adminClient{t: t, key: key, http: &http.Client{Transport: tr}, now: time.Now}
	if s.cfg.Now != nil {
		a.now = s.cfg.Now
	}
	if s.ln != nil { // else the server is in another process
		a.url = s.URL()
	}
	return a
}

// token makes a token for one request.
func (a *adminClient) token(method, path string) string {
	tok, err := trusteeapi.SignToken(a.key, method, path, a.now())
	if err != nil {
		a.t.Fatal(err)
	}
	return tok
}

// raw sends one request with a token and gives status and body.
func (a *adminClient) raw(method, path, token string, body []byte) (int, []byte) {
	a.t.Helper()
	req, err := http.NewRequest(method, a.url+path, bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, b
}

func (a *adminClient) do(method, path string, body []byte) (int, []byte) {
	a.t.Helper()
	p := trusteeapi.PathPrefix + path
	signed, _, _ := strings.Cut(p, "?")
	return a.raw(method, p, a.token(method, signed), body)
}

func (a *adminClient) must(method, path string, v any) []byte {
	a.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		a.t.Fatal(err)
	}
	status, out := a.do(method, path, b)
	if status/100 != 2 {
		a.t.Fatalf("%s %s: %d %s", method, path, status, out)
	}
	return out
}

// takeFakes has a namespace's policy know fakeTEE.
func (a *adminClient) takeFakes(ns string) {
	a.t.Helper()
	if status, b := a.do("PUT", "/namespaces/"+ns+"/policies/default_cpu", []byte(fakePolicy())); status != 200 {
		a.t.Fatalf("policy: %d %s", status, b)
	}
}

func (a *adminClient) put(ns, name, secret string) {
	a.t.Helper()
	if status, b := a.do("PUT", "/namespaces/"+ns+"/resources/"+name, []byte(secret)); status != 200 {
		a.t.Fatalf("put: %d %s", status, b)
	}
}

func (a *adminClient) addOwner(ns string, pub crypto.PublicKey) trusteeapi.OwnerKey {
	a.t.Helper()
	p := publicPEM(a.t, pub)
	var k trusteeapi.OwnerKey
	if err := json.Unmarshal(a.must("POST", "/namespaces/"+ns+"/owners", trusteeapi.OwnerKey{Name: "owner", PublicKey: p}), &k); err != nil {
		a.t.Fatal(err)
	}
	return k
}

func (a *adminClient) record(id string) *trusteeapi.Record {
	a.t.Helper()
	status, b := a.do("GET", "/attestations/"+id, nil)
	if status != 200 {
		a.t.Fatalf("record %q: %d %s", id, status, b)
	}
	r := new(trusteeapi.Record)
	if err := json.Unmarshal(b, r); err != nil {
		a.t.Fatal(err)
	}
	return r
}

func publicPEM(t testing.TB, pub crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
