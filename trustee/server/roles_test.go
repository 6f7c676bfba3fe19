package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// documented is a row of the table of docs/trustee/roles.md.
type documented struct {
	roles []trusteeapi.Role
	where string
}

var operationRE = regexp.MustCompile("`(GET|PUT|POST|DELETE) ([^`]+)`")

// rolesTable gives who may do what, as the document has it.
func rolesTable(t *testing.T) map[string]documented {
	t.Helper()
	b, err := os.ReadFile("../../docs/trustee/roles.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]documented{}
	for l := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(l), "|"), "|")
		ops := operationRE.FindAllStringSubmatch(l, -1)
		if len(cells) != 9 || len(ops) == 0 {
			continue
		}
		d := documented{where: strings.TrimSpace(cells[8])}
		for i, r := range trusteeapi.Roles() {
			if strings.TrimSpace(cells[2+i]) == "x" {
				d.roles = append(d.roles, r)
			}
		}
		for _, o := range ops {
			name := o[1] + " " + strings.Replace(o[2], "N", "/namespaces/{ns}", 1)
			name = strings.Replace(name, " R", "/{repository}/{type}/{tag}", 1)
			if _, twice := out[name]; twice {
				t.Errorf("docs/trustee/roles.md has %s twice", name)
			}
			out[name] = d
		}
	}
	if len(out) < 40 {
		t.Fatalf("only %d operations: the search is broken", len(out))
	}
	return out
}

// credential makes a bearer token with grants.
func (a *adminClient) credential(grants ...trusteeapi.Grant) *trusteeapi.Credential {
	a.t.Helper()
	c := new(trusteeapi.Credential)
	if err := json.Unmarshal(a.must("POST", "/credentials", trusteeapi.Credential{Kind: trusteeapi.CredentialToken, Grants: grants}), c); err != nil {
		a.t.Fatal(err)
	}
	return c
}

func grant(r trusteeapi.Role, ns string) trusteeapi.Grant {
	return trusteeapi.Grant{Role: r, Namespace: ns}
}

// as sends a request with a bearer token.
func (a *adminClient) as(c *trusteeapi.Credential, method, path string, body any) (int, []byte) {
	a.t.Helper()
	b, ok := body.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(body); err != nil {
			a.t.Fatal(err)
		}
	}
	return a.raw(method, path, c.Token, b)
}

// TestEveryOperationForEveryRole asks for every operation as every role: granted
// in the namespace, in another one, and in all. docs/trustee/roles.md is the word
// by which the server is judged.
func TestEveryOperationForEveryRole(t *testing.T) {
	w := newWorld(t)
	for _, ns := range []string{"a", "b"} {
		w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: ns})
		w.admin.put(ns, "x/y/z", "a secret that keeps the namespace from being deleted")
	}
	want := rolesTable(t)
	var ops []trusteeapi.Operation
	if _, b := w.admin.do("GET", "/operations", nil); json.Unmarshal(b, &ops) != nil || len(ops) == 0 {
		t.Fatal("no operations")
	}
	in := map[string]string{} // role and namespace to token
	for _, r := range trusteeapi.Roles() {
		for _, ns := range []string{"a", "b", "*"} {
			if r != trusteeapi.RoleAdmin || ns == "*" {
				in[string(r)+"@"+ns] = w.admin.credential(grant(r, ns)).Token
			}
		}
	}
	for _, o := range ops {
		name := o.Method + " " + o.Path
		d, ok := want[name]
		if !ok {
			t.Errorf("docs/trustee/roles.md lacks %s", name)
			continue
		}
		delete(want, name)
		if !slices.Equal(d.roles, o.Roles) {
			t.Errorf("%s: the API says %v, the document %v", name, o.Roles, d.roles)
		}
		path := trusteeapi.PathPrefix + strings.NewReplacer("{ns}", "a", "{change}", "delete").Replace(o.Path)
		path = regexp.MustCompile(`\{[a-z]+\}`).ReplaceAllString(path, "none")
		for who, token := range in {
			role, ns, _ := strings.Cut(who, "@")
			allowed := slices.Contains(d.roles, trusteeapi.Role(role)) && (ns == "*" || d.where == "any" || d.where == "namespace" && ns == "a")
			status, b := w.admin.raw(o.Method, path, token, []byte("{}"))
			if refused := status == 403 && strings.Contains(string(b), "admin-forbidden"); refused == allowed || status == 401 {
				t.Errorf("%s as %s: %d %s", name, who, status, b)
			}
		}
		if status, _ := w.admin.raw(o.Method, path, "", []byte("{}")); status != 401 {
			t.Errorf("%s as nobody: %d", name, status)
		}
	}
	for name := range want {
		t.Errorf("docs/trustee/roles.md has %s, which the server has not", name)
	}
}

// TestPublishedAdministrationKnowsRoles goes over the published paths in the same
// way.
func TestPublishedAdministrationKnowsRoles(t *testing.T) {
	w := newWorld(t)
	for _, ns := range []string{"a", "b"} {
		w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: ns})
	}
	secrets := []trusteeapi.Role{trusteeapi.RoleAdmin, trusteeapi.RoleOwner, trusteeapi.RoleSecretWriter}
	trust := []trusteeapi.Role{trusteeapi.RoleAdmin, trusteeapi.RoleOwner, trusteeapi.RolePolicyAdmin}
	for _, o := range []struct {
		method, path string
		roles        []trusteeapi.Role
	}{
		{"POST", "resource/x/y/z", secrets}, {"DELETE", "resource/x/y/z", secrets},
		{"POST", "attestation-policy", trust}, {"POST", "reference-value", trust}, {"POST", "resource-policy", trust},
		{"GET", "reference-value/none", trusteeapi.Roles()}, {"GET", "resource-policy", trusteeapi.Roles()},
	} {
		for _, r := range trusteeapi.Roles() {
			for _, ns := range []string{"a", "b", "*"} {
				if r == trusteeapi.RoleAdmin && ns != "*" {
					continue
				}
				status, b := w.admin.as(w.admin.credential(grant(r, ns)), o.method, "/ns/a/kbs/v0/"+o.path, []byte("{}"))
				allowed := slices.Contains(o.roles, r) && ns != "b"
				if refused := status == 403; refused == allowed || status == 401 {
					t.Errorf("%s %s as %s@%s: %d %s", o.method, o.path, r, ns, status, b)
				}
			}
		}
	}
}

// TestTenantsSeeNothingOfEachOther looks at what answers of several namespaces
// have: each role of one against what another one has.
func TestTenantsSeeNothingOfEachOther(t *testing.T) {
	w := newWorld(t)
	records, credentials := map[string]string{}, map[string]string{}
	for _, ns := range []string{"tenant-a", "tenant-b"} {
		w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: ns})
		w.admin.takeFakes(ns)
		w.bindSecret(ns, secretName, "secret of "+ns, document(t, ns))
		c := w.client(ns)
		c.handshake(document(t, ns))
		if got := c.open(c.get(secretName).body); string(got) != "secret of "+ns {
			t.Fatalf("%s: %q", ns, got)
		}
		_, b := w.admin.do("GET", "/namespaces/"+ns+"/attestations", nil)
		var l []trusteeapi.Record
		if err := json.Unmarshal(b, &l); err != nil || len(l) == 0 {
			t.Fatalf("%s %v", b, err)
		}
		records[ns] = l[0].ID
		credentials[ns] = w.admin.credential(grant(trusteeapi.RoleReader, ns)).ID
	}
	const api = trusteeapi.PathPrefix
	for _, r := range trusteeapi.Roles()[1:] {
		c := w.admin.credential(grant(r, "tenant-a"))
		for _, path := range []string{"/namespaces", "/credentials", "/namespaces/tenant-a/audit", "/namespaces/tenant-a/attestations", "/whoami", "/operations"} {
			status, b := w.admin.as(c, "GET", api+path, nil)
			if strings.Contains(string(b), "tenant-b") || strings.Contains(string(b), records["tenant-b"]) || strings.Contains(string(b), credentials["tenant-b"]) {
				t.Errorf("%s of tenant-a sees tenant-b at %s: %d %s", r, path, status, b)
			}
		}
		if status, b := w.admin.as(c, "GET", api+"/attestations/"+records["tenant-b"], nil); status != 403 && status != 404 {
			t.Errorf("%s reads the other's decision: %d %s", r, status, b)
		}
		if status, _ := w.admin.as(c, "DELETE", api+"/credentials/"+credentials["tenant-b"], nil); status != 403 {
			t.Errorf("%s takes the other's credential back: %d", r, status)
		}
		// A namespace that is another's and one that is nobody's cannot be told apart.
		_, other := w.admin.as(c, "GET", api+"/namespaces/tenant-b/seals", nil)
		_, none := w.admin.as(c, "GET", api+"/namespaces/tenant-c/seals", nil)
		strip := regexp.MustCompile(`"record":"[^"]*"`)
		if o, n := strip.ReplaceAllString(string(other), ""), strip.ReplaceAllString(string(none), ""); o != n {
			t.Errorf("%s sees that tenant-b exists: %s, %s", r, o, n)
		}
	}
	owner := w.admin.credential(grant(trusteeapi.RoleOwner, "tenant-a"))
	if status, b := w.admin.as(owner, "GET", api+"/attestations/"+records["tenant-a"], nil); status != 200 {
		t.Errorf("own decision: %d %s", status, b)
	}
	// What is bound in one namespace opens nothing in another, token or not.
	c := w.client("tenant-a")
	c.handshake(document(t, "tenant-a"))
	token := c.token
	for _, path := range []string{"/ns/tenant-b/kbs/v0/resource/" + secretName, "/kbs/v0/resource/" + secretName} {
		if status, b := w.admin.raw("GET", path, token, nil); status != 403 && status != 401 || strings.Contains(string(b), "secret of") {
			t.Errorf("%s with a token of tenant-a: %d %s", path, status, b)
		}
	}
}

// TestNobodyGivesWhatHeHasNot: grants come from those who have them.
func TestNobodyGivesWhatHeHasNot(t *testing.T) {
	w := newWorld(t)
	for _, ns := range []string{"a", "b"} {
		w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: ns})
	}
	one, all := w.admin.credential(grant(trusteeapi.RoleOwner, "a")), w.admin.credential(grant(trusteeapi.RoleOwner, "*"))
	reader := w.admin.credential(grant(trusteeapi.RoleReader, "a"))
	for _, tc := range []struct {
		who    *trusteeapi.Credential
		grants []trusteeapi.Grant
		status int
	}{
		{one, []trusteeapi.Grant{grant(trusteeapi.RoleSecretWriter, "a")}, 200},
		{one, []trusteeapi.Grant{grant(trusteeapi.RoleOwner, "a")}, 200},
		{one, []trusteeapi.Grant{grant(trusteeapi.RoleReader, "b")}, 403},
		{one, []trusteeapi.Grant{grant(trusteeapi.RoleReader, "a"), grant(trusteeapi.RoleReader, "b")}, 403},
		{one, []trusteeapi.Grant{grant(trusteeapi.RoleReader, "*")}, 403},
		{one, []trusteeapi.Grant{grant(trusteeapi.RoleAdmin, "*")}, 403},
		{one, []trusteeapi.Grant{grant(trusteeapi.RoleAdmin, "a")}, 400},
		{all, []trusteeapi.Grant{grant(trusteeapi.RoleReader, "b")}, 200},
		{all, []trusteeapi.Grant{grant(trusteeapi.RoleOwner, "*")}, 200},
		{all, []trusteeapi.Grant{grant(trusteeapi.RoleAdmin, "*")}, 403},
		{all, []trusteeapi.Grant{grant(trusteeapi.RoleReader, "nowhere")}, 404},
		{all, []trusteeapi.Grant{grant("root", "a")}, 400},
		{all, nil, 400},
		{reader, []trusteeapi.Grant{grant(trusteeapi.RoleReader, "a")}, 403},
	} {
		status, b := w.admin.as(tc.who, "POST", trusteeapi.PathPrefix+"/credentials", trusteeapi.Credential{Kind: "token", Grants: tc.grants})
		if status != tc.status {
			t.Errorf("%v gives %v: %d, want %d: %s", tc.who.Grants, tc.grants, status, tc.status, b)
		}
	}
	if status, _ := w.admin.as(all, "DELETE", trusteeapi.PathPrefix+"/credentials/"+w.admin.credential(grant(trusteeapi.RoleAdmin, "*")).ID, nil); status != 403 {
		t.Errorf("an owner takes the administrator's credential back: %d", status)
	}
	// Who did it is in the audit log, with what was given and never the token.
	log := w.audit("admin")
	i := slices.IndexFunc(log, func(e map[string]any) bool {
		return e["actor"] == "token:"+one.ID && strings.Contains(fmt.Sprint(e["action"]), "secret-writer@a")
	})
	if i < 0 {
		t.Errorf("no record of what %s gave: %v", one.ID, log)
	}
	for _, e := range log {
		if slices.Contains(slices.Collect(maps.Values(e)), any(one.Token)) || strings.Contains(fmt.Sprint(e), one.Token) {
			t.Error("a token is in the audit log")
		}
	}
}

// TestSecretWriterBindsToSealsAlone: he could read by a digest of his own guest's.
func TestSecretWriterBindsToSealsAlone(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod")
	s := w.bindSecret("default", secretName, "hunter2", doc)
	writer := w.admin.credential(grant(trusteeapi.RoleSecretWriter, "default"))
	path := trusteeapi.PathPrefix + "/namespaces/default/bindings/" + secretName
	if status, b := w.admin.as(writer, "POST", path, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf([]byte("his own"))}}); status != 403 || !strings.Contains(string(b), "bindings:digests") {
		t.Errorf("by digest: %d %s", status, b)
	}
	if status, b := w.admin.as(writer, "POST", path, trusteeapi.Binding{Seals: []string{s.ID}}); status != 200 {
		t.Errorf("by seal: %d %s", status, b)
	}
}
