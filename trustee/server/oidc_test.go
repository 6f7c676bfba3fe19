package server

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/oidc"
	"github.com/cofferproject/coffer/trustee/oidc/oidctest"
)

// with sends a request with a bearer token.
func (a *adminClient) with(token, method, path string, body any) (int, []byte) {
	a.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.raw(method, trusteeapi.PathPrefix+path, token, b)
}

// An administrator of an identity provider may what credentials for his claims say, as
// long as they stand; a provider that hangs keeps nobody waiting.
func TestAdministratorsOfAnIdentityProvider(t *testing.T) {
	idp := oidctest.Start(t)
	w := newWorld(t, func(c *Config) {
		c.AdminIssuers = []oidc.Config{{Issuer: idp.Issuer(), Audience: "coffer", CAFile: idp.CAFile(), Claims: []string{"groups"}}}
	})
	for _, ns := range []string{"a", "b"} {
		w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: ns})
	}
	token := func(sub string, groups ...string) string {
		return idp.Token("coffer", sub, w.clock.now(), map[string]any{"groups": groups})
	}
	whoami := func(tok string) (int, string) {
		status, b := w.admin.raw(http.MethodGet, trusteeapi.PathPrefix+"/whoami", tok, nil)
		return status, string(b)
	}
	if status, _ := whoami(token("alice", "owners")); status != 401 {
		t.Fatalf("a group that nobody registered: %d", status)
	}
	owners := w.admin.addCredential(trusteeapi.Credential{Kind: trusteeapi.CredentialOIDC, Subject: idp.Issuer() + " groups=owners", Grants: []trusteeapi.Grant{grant(trusteeapi.RoleOwner, "a")}})
	w.admin.addCredential(trusteeapi.Credential{Kind: trusteeapi.CredentialOIDC, Subject: idp.Issuer() + " sub=bob", Grants: []trusteeapi.Grant{grant(trusteeapi.RoleReader, "b")}})
	await(t, func() bool { status, _ := whoami(token("alice", "x", "owners")); return status == 200 }) // the keys are fetched in the background

	put := func(tok, ns string) int {
		status, _ := w.admin.with(tok, "PUT", "/namespaces/"+ns+"/resources/x/y/z", "secret")
		return status
	}
	for name, tc := range map[string]struct {
		tok  string
		a, b int
	}{
		"of the group":           {token("alice", "owners"), 200, 403},
		"a reader":               {token("bob"), 403, 403},
		"both":                   {token("bob", "owners"), 200, 403},
		"of another group":       {token("alice", "owner"), 401, 401},
		"sub is no group":        {token("owners"), 401, 401},
		"for another audience":   {idp.Token("other", "alice", w.clock.now(), map[string]any{"groups": []string{"owners"}}), 401, 401},
		"expired":                {idp.Token("coffer", "alice", w.clock.now().Add(-2*time.Hour), map[string]any{"groups": []string{"owners"}}), 401, 401},
		"signature of the other": {token("alice", "owners")[:20] + token("alice", "owners")[20:60] + "AAAA", 401, 401},
	} {
		if a, b := put(tc.tok, "a"), put(tc.tok, "b"); a != tc.a || b != tc.b {
			t.Errorf("%s: %d in a, %d in b; want %d, %d", name, a, b, tc.a, tc.b)
		}
	}
	found := false
	for _, e := range w.audit("admin") {
		found = found || e["actor"] == "oidc:"+idp.Issuer()+" alice" && strings.Contains(e["action"].(string), "PUT")
	}
	if !found {
		t.Error("the audit log does not say who it was")
	}
	// What he gives has his name and the credential he had it by, and nothing above his own.
	status, b := w.admin.with(token("alice", "owners"), "POST", "/credentials", trusteeapi.Credential{Kind: trusteeapi.CredentialToken, Grants: []trusteeapi.Grant{grant(trusteeapi.RoleReader, "a")}})
	var given trusteeapi.Credential
	if err := json.Unmarshal(b, &given); status != 200 || err != nil || len(given.GivenBy) != 1 || given.GivenBy[0] != owners.ID {
		t.Fatalf("%d %s", status, b)
	}
	if status, _ := w.admin.with(token("alice", "owners"), "POST", "/credentials", trusteeapi.Credential{Kind: trusteeapi.CredentialToken, Grants: []trusteeapi.Grant{grant(trusteeapi.RoleOwner, "b")}}); status != 403 {
		t.Errorf("gave what he has not: %d", status)
	}
	// The provider hangs: whoever is known goes on at once.
	idp.Hang(true)
	began := time.Now()
	if status, _ := whoami(token("alice", "owners")); status != 200 || time.Since(began) > 2*time.Second {
		t.Errorf("beside a provider that hangs: %d after %s", status, time.Since(began))
	}
	if status, b := w.admin.do("DELETE", "/credentials/"+owners.ID, nil); status != 200 || !strings.Contains(string(b), `"standing"`) || !strings.Contains(string(b), given.ID) {
		t.Errorf("%d %s", status, b)
	}
	if status, _ := whoami(token("alice", "owners")); status != 401 {
		t.Errorf("a credential that was taken back: %d", status)
	}
	if status, _ := whoami(given.Token); status != 200 {
		t.Errorf("what he had given was to stand: %d", status)
	}
	if status, b := w.admin.do("DELETE", "/credentials/"+owners.ID+"?given=end", nil); status != 200 || !strings.Contains(string(b), `"ended"`) {
		t.Errorf("%d %s", status, b)
	}
	if status, _ := whoami(given.Token); status != 401 {
		t.Errorf("what he had given was to end: %d", status)
	}
}

// Whoever takes a credential back learns what it has given, and takes that back with it
// if he says so: to its end, all of it or nothing, and never the last administrator.
func TestWhatARevokedCredentialHasGiven(t *testing.T) {
	w := newWorld(t)
	for _, ns := range []string{"a", "b"} {
		w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: ns})
	}
	give := func(by *trusteeapi.Credential, name string, g ...trusteeapi.Grant) *trusteeapi.Credential {
		t.Helper()
		x := trusteeapi.Credential{Kind: trusteeapi.CredentialToken, Name: name, Grants: g}
		if by == nil {
			return w.admin.addCredential(x)
		}
		status, b := w.admin.with(by.Token, "POST", "/credentials", x)
		out := new(trusteeapi.Credential)
		if err := json.Unmarshal(b, out); status != 200 || err != nil {
			t.Fatalf("%s: %d %s", name, status, b)
		}
		return out
	}
	live := func(c *trusteeapi.Credential) bool {
		status, _ := w.admin.raw(http.MethodGet, trusteeapi.PathPrefix+"/whoami", c.Token, nil)
		return status == 200
	}
	owner := func(ns string) trusteeapi.Grant { return grant(trusteeapi.RoleOwner, ns) }
	one := give(nil, "one", owner("a"), owner("b"))
	two := give(one, "two", owner("a"))
	three := give(two, "three", grant(trusteeapi.RoleReader, "a"))
	other := give(one, "other", owner("b"))
	stranger := give(nil, "stranger", owner("a"))

	// An owner of a may not end what holds in b: so nothing ends.
	status, b := w.admin.with(stranger.Token, "DELETE", "/credentials/"+two.ID+"?given=all", nil)
	if status != 400 {
		t.Errorf("an unknown choice: %d %s", status, b)
	}
	if status, b = w.admin.with(stranger.Token, "DELETE", "/credentials/"+one.ID+"?given=end", nil); status != 403 {
		t.Errorf("%d %s", status, b)
	}
	for _, c := range []*trusteeapi.Credential{one, two, three, other} {
		if !live(c) {
			t.Errorf("%s ended", c.Name)
		}
	}
	end := func(status int, b []byte) trusteeapi.CredentialEnd {
		t.Helper()
		var e trusteeapi.CredentialEnd
		if err := json.Unmarshal(b, &e); status != 200 || err != nil {
			t.Fatalf("%d %s", status, b)
		}
		for _, c := range append(e.Ended, e.Standing...) {
			if c.Token != "" {
				t.Error("a token is in the answer")
			}
		}
		return e
	}
	// Without a word they stand, and are named: those that he may look at.
	if e := end(w.admin.with(stranger.Token, "DELETE", "/credentials/"+two.ID, nil)); len(e.Standing) != 1 || e.Standing[0].ID != three.ID || len(e.Ended) != 0 {
		t.Errorf("%+v", e)
	}
	if live(two) || !live(three) {
		t.Error("two was to end, three to stand")
	}
	if e := end(w.admin.do("DELETE", "/credentials/"+one.ID+"?given=end", nil)); len(e.Ended) != 2 {
		t.Errorf("%+v, want other and three, although two is gone", e)
	}
	for _, c := range []*trusteeapi.Credential{one, two, three, other} {
		if live(c) {
			t.Errorf("%s goes on", c.Name)
		}
	}
	if status, _ := w.admin.do("DELETE", "/credentials/"+two.ID+"?given=end", nil); status != 404 {
		t.Errorf("nothing is left: %d", status)
	}
	if !live(stranger) {
		t.Error("another's credential ended")
	}
	// The first administrator has given a second one; both may not end at once.
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	second := w.admin.addCredential(trusteeapi.Credential{Kind: trusteeapi.CredentialKey, PublicKey: publicPEM(t, pub), Grants: []trusteeapi.Grant{grant(trusteeapi.RoleAdmin, "*")}})
	var first string
	for _, c := range read[[]trusteeapi.Credential](w.admin, "/credentials") {
		if c.Name == "first start" {
			first = c.ID
		}
	}
	if status, b := w.admin.do("DELETE", "/credentials/"+first+"?given=end", nil); status != 409 {
		t.Errorf("both administrators: %d %s", status, b)
	}
	if status, b := w.admin.do("DELETE", "/credentials/"+first, nil); status != 200 || !strings.Contains(string(b), second.ID) {
		t.Errorf("%d %s", status, b)
	}
}
