package server

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// local sends a request to the handler without a network.
func (w *world) local(method, path string, body []byte, header ...string) *httptest.ResponseRecorder {
	r, err := http.NewRequest(method, "https://trustee"+path, bytes.NewReader(body))
	if err != nil {
		return nil // no such request can come in
	}
	r.RemoteAddr = "192.0.2.1:1"
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.s.http.Handler.ServeHTTP(rec, r)
	return rec
}

func quietWorld(f *testing.F) *world {
	return newWorld(f, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
}

// check finds answers that no input may cause.
func check(t *testing.T, rec *httptest.ResponseRecorder, in string) {
	t.Helper()
	if rec == nil {
		return
	}
	if rec.Code == http.StatusInternalServerError {
		t.Errorf("internal error for %q: %s", in, rec.Body)
	}
	if strings.Contains(rec.Body.String(), "hunter2") {
		t.Errorf("the secret in the answer to %q", in)
	}
}

// FuzzKBSRequest plays a peer that nobody knows.
func FuzzKBSRequest(f *testing.F) {
	w := quietWorld(f)
	doc := document(f, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	f.Add("POST", "/kbs/v0/auth", "", "", []byte(`{"version":"0.4.0","tee":"tpm","extra-params":{"tpm":{"ek-cert":"AAAA","ak-public":"AAAA"}}}`))
	f.Add("POST", "/kbs/v0/auth", "", "", []byte(`{"version":"0.1.0","tee":"tpm","extra-params":""}`))
	f.Add("POST", "/ns/sim/kbs/v0/attest", "kbs-session-id=o1.e30.AA", "", []byte(`{"runtime-data":{"nonce":"","tee-pubkey":{}},"tee-evidence":{}}`))
	f.Add("GET", "/kbs/v0/resource/default/db/password", "kbs-session-id=a1.AA", "Bearer a.b.c", []byte{})
	f.Add("DELETE", "/kbs/v0/resource/a/b/c", "", "Bearer x", []byte{})
	f.Add("GET", "/coffer/v1/namespaces/default/resources", "", "Bearer eyJhbGciOiJub25lIn0.e30.", []byte{})
	f.Fuzz(func(t *testing.T, method, path, cookie, authorization string, body []byte) {
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		rec := w.local(method, path, body, "Cookie", cookie, "Authorization", authorization)
		check(t, rec, method+" "+path)
		if rec != nil && strings.HasPrefix(path, trusteeapi.PathPrefix+"/") && rec.Code/100 == 2 {
			t.Errorf("%s %s: %d without a credential", method, path, rec.Code)
		}
	})
}

// FuzzAttestation plays a client with a session and arbitrary evidence.
func FuzzAttestation(f *testing.F) {
	w := quietWorld(f)
	open := func(tee string) (cookie, nonce string) {
		rec := w.local("POST", "/kbs/v0/auth", []byte(`{"version":"0.4.0","tee":"`+tee+`","extra-params":""}`))
		var c struct{ Nonce string }
		if err := json.Unmarshal(rec.Body.Bytes(), &c); err != nil {
			f.Fatal(err)
		}
		return strings.Split(rec.Header().Get("Set-Cookie"), ";")[0], c.Nonce
	}
	f.Add([]byte(`null`), []byte(`{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"AA","y":"AA"}`), []byte(`{"tpm_quote":{"signature":"","message":"","pcrs":[]},"ak_public":""}`))
	f.Add([]byte(`{"format":"toml","body":"version = \"0.1.0\""}`), []byte(`{"kty":"RSA","alg":"RSA-OAEP-256","n":"AQAB","e":"AQAB"}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, initdata, key, evidence []byte) {
		for _, tee := range []string{fakeTEE, "tpm"} {
			cookie, nonce := open(tee)
			n, _ := json.Marshal(nonce)
			body := `{"init-data":` + string(initdata) + `,"runtime-data":{"nonce":` + string(n) + `,"tee-pubkey":` + string(key) +
				`},"tee-evidence":{"primary_evidence":` + string(evidence) + `,"additional_evidence":""}}`
			rec := w.local("POST", "/kbs/v0/attest", []byte(body), "Cookie", cookie)
			check(t, rec, body)
			if rec.Code == http.StatusOK {
				t.Errorf("attested: %s", body)
			}
		}
	})
}

// FuzzAdmin plays an administrator whose tool sends nonsense.
func FuzzAdmin(f *testing.F) {
	w := quietWorld(f)
	for _, s := range [][2]string{
		{"/namespaces", `{"name":"x","simulated":true}`},
		{"/namespaces/default/owners", `{"name":"x","public_key":"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"}`},
		{"/namespaces/default/seals", `{"jws":"a.b.c"}`},
		{"/namespaces/default/bindings/a/b/c", `{"seals":["x"],"initdata":["sha256:x"]}`},
		{"/namespaces/default/ek-roots", `{"certificate":"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"}`},
		{"/namespaces/default/reference-values/x", `{"version":1,"sets":[]}`},
	} {
		f.Add(s[0], []byte(s[1]))
	}
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		for _, method := range []string{"POST", "PUT"} {
			r, err := http.NewRequest(method, "https://trustee"+trusteeapi.PathPrefix+path, nil)
			if err != nil {
				return
			}
			tok := w.admin.token(method, r.URL.EscapedPath())
			check(t, w.local(method, trusteeapi.PathPrefix+path, body, "Authorization", "Bearer "+tok), path)
		}
	})
}
