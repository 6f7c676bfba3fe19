package server

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/storetest"
)

// lateBody runs first before it gives a byte. Under "Expect: 100-continue" nobody reads it
// before the server wants the body, which it does once it has authenticated.
type lateBody struct {
	io.Reader
	first func()
}

func (b *lateBody) Read(p []byte) (int, error) {
	if b.first != nil {
		b.first()
		b.first = nil
	}
	return b.Reader.Read(p)
}

// TestBodyAfterItsCredential: who holds the body back until his credential has been taken
// back changes nothing with it, and has not made himself another one.
func TestBodyAfterItsCredential(t *testing.T) {
	w := newWorld(t)
	tr := w.admin.http.Transport.(*http.Transport).Clone()
	tr.ExpectContinueTimeout = time.Minute
	defer tr.CloseIdleConnections()
	policy := []byte(`{"policy_id":"default_cpu","policy":"` + b64url([]byte(yes)) + `"}`)
	more, err := json.Marshal(trusteeapi.Credential{
		Kind: trusteeapi.CredentialToken, Name: "lasting", Grants: []trusteeapi.Grant{grant(trusteeapi.RoleAdmin, trusteeapi.AllNamespaces)},
	})
	if err != nil {
		t.Fatal(err)
	}
	const api = trusteeapi.PathPrefix + "/namespaces/default"
	for _, tc := range []struct {
		method, path string
		body         []byte
	}{
		{"POST", trusteeapi.PathPrefix + "/credentials", more},
		{"PUT", api + "/resources/" + secretName, []byte("x")},
		{"PUT", api + "/policies/default_cpu", []byte(yes)},
		{"POST", "/kbs/v0/resource/" + secretName, []byte("x")},
		{"POST", "/kbs/v0/attestation-policy", policy},
		{"POST", "/kbs/v0/resource-policy", []byte(`{"policy":"` + b64url([]byte("package policy\ndefault allow = true\n")) + `"}`)},
	} {
		t.Run(tc.method+" "+tc.path, func(t *testing.T) {
			thief := w.admin.credential(grant(trusteeapi.RoleAdmin, trusteeapi.AllNamespaces))
			ended := false
			body := &lateBody{bytes.NewReader(tc.body), func() {
				status, _ := w.admin.do("DELETE", "/credentials/"+thief.ID, nil)
				ended = status == 204
			}}
			req, err := http.NewRequestWithContext(t.Context(), tc.method, w.s.URL()+tc.path, body)
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = int64(len(tc.body))
			req.Header.Set("Expect", "100-continue")
			req.Header.Set("Authorization", "Bearer "+thief.Token)
			resp, err := (&http.Client{Transport: tr}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != 401 || !strings.Contains(string(b), "admin-unauthenticated") || !ended {
				t.Errorf("%d %s, %v, ended %v", resp.StatusCode, b, err, ended)
			}
		})
	}
	if _, b := w.admin.do("GET", "/credentials", nil); strings.Contains(string(b), "lasting") {
		t.Errorf("he has another: %s", b)
	}
	if _, b := w.admin.do("GET", "/namespaces/default/resources", nil); strings.Contains(string(b), secretName) {
		t.Errorf("he has put a secret: %s", b)
	}
}

// TestGiverEndsMeanwhile: the same where it ends between the last question and the change.
func TestGiverEndsMeanwhile(t *testing.T) {
	var between *storetest.Between
	w := newWorld(t, func(c *Config) {
		c.WrapStore = func(s store.Store) store.Store { between = &storetest.Between{Store: s}; return between }
	})
	all := grant(trusteeapi.RoleAdmin, trusteeapi.AllNamespaces)
	thief := w.admin.credential(all)
	between.Arm("admins", func() { w.admin.must("DELETE", "/credentials/"+thief.ID, nil) })
	more := trusteeapi.Credential{Kind: trusteeapi.CredentialToken, Name: "lasting", Grants: []trusteeapi.Grant{all}}
	if s, b := w.admin.as(thief, "POST", trusteeapi.PathPrefix+"/credentials", more); s != 401 || !strings.Contains(string(b), "admin-unauthenticated") {
		t.Errorf("%d %s", s, b)
	}
	if _, b := w.admin.do("GET", "/credentials", nil); strings.Contains(string(b), "lasting") {
		t.Errorf("he has another: %s", b)
	}
}
