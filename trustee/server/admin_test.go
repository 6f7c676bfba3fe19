package server

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
)

func TestAdministrationNeedsACredential(t *testing.T) {
	w := newWorld(t)
	a := w.admin
	const path = trusteeapi.PathPrefix + "/info"
	_, strange, _ := ed25519.GenerateKey(rand.Reader)
	sign := func(key ed25519.PrivateKey, method, path string, at time.Time) string {
		tok, err := trusteeapi.SignToken(key, method, path, at)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	good := a.token("GET", path)
	for name, tok := range map[string]string{
		"none": "", "garbage": "a.b.c", "unknown key": sign(strange, "GET", path, time.Now()),
		"another path":   a.token("GET", trusteeapi.PathPrefix+"/audit"),
		"another method": a.token("PUT", path),
		"expired":        sign(a.key.(ed25519.PrivateKey), "GET", path, time.Now().Add(-10*time.Minute)),
		"from tomorrow":  sign(a.key.(ed25519.PrivateKey), "GET", path, time.Now().Add(24*time.Hour)),
		"cut signature":  good[:len(good)-4],
	} {
		t.Run(name, func(t *testing.T) {
			if status, b := a.raw("GET", path, tok, nil); status != 401 || !strings.Contains(string(b), "admin-unauthenticated") {
				t.Errorf("%d %s", status, b)
			}
		})
	}
	if status, b := a.raw("GET", path, good, nil); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	if status, _ := a.raw("GET", path, good, nil); status != 401 {
		t.Errorf("a token is good twice: %d", status)
	}
	// Every path below the prefix asks first, also one that does not exist.
	for _, p := range []string{"/nothing", "/namespaces", "/namespaces/default/resources", "/audit", "/"} {
		if status, _ := a.raw("GET", trusteeapi.PathPrefix+p, "", nil); status != 401 {
			t.Errorf("GET %s without a token: %d", p, status)
		}
	}
	// The published administration as well.
	const pub = "/kbs/v0/resource/a/b/c"
	if status, _ := a.raw("POST", pub, "", []byte("x")); status != 401 {
		t.Errorf("published POST without a token: %d", status)
	}
	if status, b := a.raw("POST", pub, a.token("POST", pub), []byte("x")); status != 200 || len(b) != 0 {
		t.Errorf("published POST: %d %q", status, b)
	}
	if status, b := a.raw("DELETE", pub, a.token("DELETE", pub), nil); status != 200 || len(b) != 0 {
		t.Errorf("published DELETE: %d %q", status, b)
	}
	got := w.audit("admin")[2:] // the policies of the fake TEE came before
	if len(got) != 2 || got[0]["actor"] == "" || got[0]["namespace"] != "default" {
		t.Errorf("audit of changes: %v", got)
	}
}

func TestNoAnswerCarriesASecret(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	w.admin.put("default", secretName, "hunter3")
	for _, p := range []string{"/namespaces/default/resources", "/namespaces/default/bindings/" + secretName, "/audit", "/namespaces/default/attestations", "/namespaces/default/seals"} {
		status, b := w.admin.do("GET", p, nil)
		if status != 200 {
			t.Errorf("GET %s: %d", p, status)
		}
		if strings.Contains(string(b), "hunter") {
			t.Errorf("GET %s shows the secret", p)
		}
	}
	if status, _ := w.admin.do("GET", "/namespaces/default/resources/"+secretName, nil); status != 404 && status != 405 {
		t.Errorf("an administrator reads a secret: %d", status)
	}
	var l []trusteeapi.Resource
	_, b := w.admin.do("GET", "/namespaces/default/resources", nil)
	if err := json.Unmarshal(b, &l); err != nil || len(l) != 1 || l[0].Version != 2 || l[0].Size != 7 || len(l[0].Binding.Seals) != 1 {
		t.Errorf("list %s, %v", b, err)
	}
	if status, _ := w.admin.do("DELETE", "/namespaces/default/resources/"+secretName, nil); status != 204 {
		t.Fatal(status)
	}
	c := w.client("")
	c.handshake(doc)
	denied(t, w, c.get(secretName), 403, "secret-unbound")
	w.admin.put("default", secretName, "again") // its binding went with it
	denied(t, w, c.get(secretName), 403, "secret-unbound")
}

func TestAdminInput(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/namespaces", `{"name":"Upper"}`, 400},
		{"POST", "/namespaces", `{"name":"a/b"}`, 400},
		{"POST", "/namespaces", `{"name":"x","unknown":1}`, 400},
		{"POST", "/namespaces", `{"name":"x"}{}`, 400},
		{"POST", "/namespaces", `nonsense`, 400},
		{"POST", "/namespaces/none/owners", `{"name":"x"}`, 400},
		{"GET", "/namespaces/none/owners", ``, 404},
		{"POST", "/namespaces/default/seals", `{"jws":"a.b.c"}`, 400},
		{"PUT", "/namespaces/default/resources/a/b/.c", `x`, 400},
		{"PUT", "/namespaces/none/resources/a/b/c", `x`, 404},
		{"DELETE", "/namespaces/default/resources/a/b/c", ``, 404},
		{"POST", "/namespaces/default/bindings/a/b/c", `{}`, 400},
		{"POST", "/namespaces/default/bindings/a/b/c", `{"initdata":["sha256:xyz"]}`, 400},
		{"PUT", "/namespaces/default/reference-values/x", `{"version":9}`, 400},
		{"PUT", "/namespaces/default/reference-values/..%2Fx", `{}`, 400},
		{"POST", "/namespaces/default/ek-roots", `{"certificate":"x"}`, 400},
		{"POST", "/namespaces/default/enrolled-aks", `{"name":"000b00"}`, 400},
		{"POST", "/namespaces/default/enrolled-aks", `{"name":"000b` + strings.Repeat("0a", 32) + `"}`, 200},
		{"POST", "/namespaces/sim/enrolled-aks", `{"name":"000b` + strings.Repeat("0a", 32) + `"}`, 400},
		{"GET", "/attestations/none", ``, 404},
		{"GET", "/audit?after=x", ``, 400},
	} {
		path, query, _ := strings.Cut(tc.path, "?")
		p := trusteeapi.PathPrefix + path
		full := p
		if query != "" {
			full += "?" + query
		}
		if status, b := w.admin.raw(tc.method, full, w.admin.token(tc.method, p), []byte(tc.body)); status != tc.status {
			t.Errorf("%s %s %s: %d, want %d: %s", tc.method, tc.path, tc.body, status, tc.status, b)
		}
	}
}

func TestSimulatedRootIsNeverGenuine(t *testing.T) {
	w := newWorld(t)
	root := tpmtest.NewCA(t, "machine").Root
	body, _ := json.Marshal(trusteeapi.EKRoot{Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))})
	if status, b := w.admin.do("POST", "/namespaces/sim/ek-roots", body); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	if status, _ := w.admin.do("POST", "/namespaces/default/ek-roots", body); status != 409 {
		t.Errorf("a simulated root became a production one: %d", status)
	}
	var l []trusteeapi.EKRoot
	_, b := w.admin.do("GET", "/namespaces/sim/ek-roots", nil)
	if err := json.Unmarshal(b, &l); err != nil || len(l) != 1 {
		t.Fatalf("%s %v", b, err)
	}
	if status, _ := w.admin.do("DELETE", "/namespaces/sim/ek-roots/"+l[0].ID, nil); status != 204 {
		t.Error(status)
	}
	if status, _ := w.admin.do("POST", "/namespaces/default/ek-roots", body); status != 409 {
		t.Errorf("a root that was simulated once became a production one: %d", status)
	}
	inter, _ := json.Marshal(trusteeapi.EKRoot{Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tpmtest.NewCA(t, "i").Root.Raw})), Intermediate: true})
	if status, _ := w.admin.do("POST", "/namespaces/sim/ek-roots", inter); status != 400 {
		t.Errorf("intermediate in a simulated namespace: %d", status)
	}
}
