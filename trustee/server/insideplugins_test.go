package server

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slackhq/nebula/cert"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/nebulaca"
	"github.com/cofferproject/coffer/trustee/plugin"
)

// documentNaming is an initdata document that names a resource, as the published
// provisioner demands.
func documentNaming(t testing.TB, resource string) []byte {
	t.Helper()
	b, err := initdata.Build(&initdata.Document{
		Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{"trustee.kbs.resource": resource},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func bindTo(docs ...[]byte) trusteeapi.Binding {
	var b trusteeapi.Binding
	for _, d := range docs {
		b.Initdata = append(b.Initdata, "sha256:"+digestOf(d))
	}
	return b
}

// TestProvisioner makes a VM's key and has that VM, and no other, read it, before and
// after a restart.
func TestProvisioner(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.ProvisionerKeyLength = 32 })
	asAdmin := func(method, path, body string) *answer {
		return w.client("").do(method, path, []byte(body), "Authorization", "Bearer "+w.admin.token(method, "/kbs/v0"+path))
	}
	a := asAdmin("POST", "/provisioner/provision", `{"vm_name":"my-vm"}`)
	var made struct {
		UUID string `json:"uuid"`
		Path string `json:"resource_path"`
	}
	if err := json.Unmarshal(a.body, &made); err != nil || a.status != 200 || made.Path != "default/"+made.UUID+"/root" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if l := w.audit("admin"); !strings.Contains(l[len(l)-1]["action"].(string), "POST /kbs/v0/provisioner/provision") {
		t.Errorf("record: %v", l[len(l)-1])
	}
	doc, unnamed := documentNaming(t, "kbs+provisioner:///"+made.Path), document(t, "pod b")
	same := documentNaming(t, "kbs+provisioner:///default/00000000-0000-0000-0000-000000000000/root")
	attested := func(doc []byte) *rcar {
		c := w.client("")
		c.handshake(doc)
		return c
	}
	c := attested(doc)
	get := func(c *rcar) *answer { return c.do("GET", "/provisioner/"+made.Path, nil) }

	// That its initdata names the key is not enough: anybody can write that.
	denied(t, w, get(c), 403, "secret-unbound")
	w.admin.must("POST", "/namespaces/default/bindings/provisioner/"+made.UUID+"/root", bindTo(doc, unnamed, same))
	// Nor is a binding, without initdata that names it.
	denied(t, w, get(attested(unnamed)), 403, "initdata-names-another")
	denied(t, w, get(attested(same)), 403, "initdata-names-another")
	a = get(c)
	if a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	key := string(c.open(a.body))
	if !strings.Contains(key, "\"io.cryptsetup.key.text.root\" = \"") || strings.Contains(string(a.body), "cryptsetup") {
		t.Errorf("%q", key)
	}
	if r := w.audit("release"); r[len(r)-1]["resource"] != "provisioner/"+made.UUID+"/root" || r[len(r)-1]["initdata"] != "sha256:"+digestOf(doc) {
		t.Errorf("record: %v", r[len(r)-1])
	}
	// Policies see it as the published plugin's.
	w.admin.resourcePolicy("p", "provisioner", `allow if { data.plugin == "provisioner"; data["resource-path"][0] == "default"; data["resource-path"][2] == "root" }`, "GET")
	if a := get(c); a.status != 200 {
		t.Errorf("allowed by a policy: %d %s", a.status, a.body)
	}
	w.admin.resourcePolicy("p", "provisioner", `allow if { data.plugin == "resource" }`, "GET")
	denied(t, w, get(c), 403, "resource-policy-denied")
	w.admin.resourcePolicy("p", "provisioner", "allow := true", "GET")

	w.stop()
	w.start()
	c = attested(doc)
	if a := get(c); a.status != 200 || string(c.open(a.body)) != key {
		t.Errorf("after a restart: %d %s", a.status, a.body)
	}
	if a := asAdmin("POST", "/provisioner/provision", `{"vm_name":"my-vm"}`); a.status != 200 {
		t.Errorf("once more: %d %s", a.status, a.body)
	}
	if a := get(c); string(c.open(a.body)) != key {
		t.Error("asking once more made another key")
	}
	// Strangers.
	for _, what := range [][2]string{{"POST", "/provisioner/provision"}, {"DELETE", "/provisioner/provision/" + made.UUID}} {
		if a := c.do(what[0], what[1], []byte(`{"vm_name":"x"}`)); a.status != 401 {
			t.Errorf("%s by a guest: %d %s", what[0], a.status, a.body)
		}
	}
	if a := w.client("").do("GET", "/provisioner/"+made.Path, nil); a.status != 401 {
		t.Errorf("without a token: %d", a.status)
	}
	for path, want := range map[string]int{"/provisioner": 404, "/provisioner/default/x/root": 404, "/provisioner/provision": 404, "/provisioner/default/../x": 404} {
		if a := c.do("GET", path, nil); a.status != want {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := asAdmin("POST", "/provisioner/provision", `{"vm":"x"}`); a.status != 400 {
		t.Errorf("nonsense: %d %s", a.status, a.body)
	}
	if a := asAdmin("DELETE", "/provisioner/provision/"+made.UUID, ""); a.status != 200 || string(a.body) != `{"status":"deleted"}` {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	denied(t, w, get(c), 403, "secret-unbound") // the binding has gone along
}

// TestNebulaCA gives a bound guest a credential of its name and address, and nothing
// else.
func TestNebulaCA(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Nebula = &nebulaca.Config{Groups: []string{"web", "db"}} })
	doc := document(t, "pod a")
	c, stranger := w.client(""), w.client("")
	c.handshake(doc)
	stranger.handshake(document(t, "pod b"))
	ask := func(c *rcar, query string) *answer { return c.do("GET", "/nebula-ca/credential?"+query, nil) }
	const mine = "name=pod1&ip=10.11.0.5/16"

	denied(t, w, ask(c, mine), 403, "secret-unbound")
	w.admin.must("POST", "/namespaces/default/bindings/nebula-ca/pod1/10.11.0.5_16", bindTo(doc))
	denied(t, w, ask(stranger, mine), 403, "secret-unbound")
	for _, other := range []string{"name=pod2&ip=10.11.0.5/16", "name=pod1&ip=10.11.0.6/16", "name=pod1&ip=10.11.0.5/8"} {
		denied(t, w, ask(c, other), 403, "secret-unbound")
	}
	open := func(a *answer) (cert.Certificate, cert.Certificate) {
		t.Helper()
		var doc map[string][]int
		if a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		if err := json.Unmarshal(c.open(a.body), &doc); err != nil {
			t.Fatal(err)
		}
		parse := func(name string) cert.Certificate {
			var b []byte
			for _, n := range doc[name] {
				b = append(b, byte(n))
			}
			x, _, err := cert.UnmarshalCertificateFromPEM(b)
			if err != nil {
				t.Fatalf("%s: %v", b, err)
			}
			return x
		}
		if len(doc["node_key"]) == 0 {
			t.Error("no key")
		}
		return parse("node_crt"), parse("ca_crt")
	}
	node, ca := open(ask(c, mine))
	if node.Name() != "pod1" || node.Networks()[0].String() != "10.11.0.5/16" || len(node.Groups()) != 0 || !node.CheckSignature(ca.PublicKey()) {
		t.Errorf("%s", node)
	}
	if r := w.audit("release"); r[len(r)-1]["resource"] != "nebula-ca/pod1/10.11.0.5_16" {
		t.Errorf("record: %v", r[len(r)-1])
	}
	// Groups are for a policy to allow, and for the authority to have.
	denied(t, w, ask(c, mine+"&groups=web"), 403, "resource-policy-denied")
	denied(t, w, ask(c, mine+"&subnets=192.168.0.0/24"), 403, "resource-policy-denied")
	w.admin.resourcePolicy("p", "nebula-ca", `allow if { data.plugin == "nebula-ca"; data["resource-path"] == ["credential"]; not data.query.subnets }`, "GET")
	if node, _ := open(ask(c, mine+"&groups=web")); node.Groups()[0] != "web" {
		t.Errorf("%s", node)
	}
	denied(t, w, ask(c, mine+"&subnets=192.168.0.0/24"), 403, "resource-policy-denied")
	if a := ask(c, mine+"&groups=web&groups=db"); a.status != 400 {
		t.Errorf("groups twice: %d %s", a.status, a.body)
	}
	a := ask(c, mine+"&groups=admin")
	denied(t, w, a, 403, "plugin-refused")
	if d := w.admin.record(a.err.Record).Denial; !strings.Contains(d.Measured, "group not present") {
		t.Errorf("%+v", d)
	}
	for query, want := range map[string]int{"name=pod1": 400, "": 400, mine + "&duration=x": 400, mine + "&pub=1": 400} {
		if a := ask(c, query); a.status != want {
			t.Errorf("%q: %d %s", query, a.status, a.body)
		}
	}
	if a := w.client("").do("GET", "/nebula-ca/credential?"+mine, nil); a.status != 401 {
		t.Errorf("without a token: %d", a.status)
	}
	if a := c.do("POST", "/nebula-ca/credential?"+mine, nil); a.status != 405 {
		t.Errorf("POST: %d", a.status)
	}
	if a := c.do("GET", "/nebula-ca/ca.key", nil); a.status != 404 {
		t.Errorf("another path: %d", a.status)
	}
	w.stop()
	w.start()
	c = w.client("")
	c.handshake(doc)
	_, after := open(ask(c, mine))
	if before, _ := ca.Fingerprint(); func() string { s, _ := after.Fingerprint(); return s }() != before {
		t.Error("another authority after a restart")
	}
}

// TestPluginsThatAreNotServed has the paths of plugins that are off lead nowhere.
func TestPluginsThatAreNotServed(t *testing.T) {
	w := newWorld(t)
	c := w.client("")
	c.handshake(document(t, "pod a"))
	for _, path := range []string{"/nebula-ca/credential?name=a&ip=10.0.0.1/8", "/provisioner/default/211568cd-f669-5123-9f71-ce4765de93d6/root"} {
		if a := c.do("GET", path, nil); a.status != 404 || !strings.Contains(a.err.Detail, "not found") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// TestPKCS11Plugin serves the published plugin's paths through an external one of that
// name, and binds each object by itself.
func TestPKCS11Plugin(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	e, _ := serveEcho(t, "unix", socket)
	w := newWorld(t, func(c *Config) { c.Plugins = []plugin.Backend{{Name: "pkcs11", Endpoint: "unix://" + socket}} })
	doc := document(t, "pod a")
	c := w.client("")
	c.handshake(doc)
	ask := func(path string) *answer { return c.do("GET", path, nil) }
	for _, path := range []string{"/pkcs11/wrap-key", "/pkcs11/resource/a/b/c", "/external/pkcs11/resource/a/b/c"} {
		denied(t, w, ask(path), 403, "secret-unbound")
	}
	// Whoever is bound to the plugin can unwrap, and has no object by that.
	w.admin.must("POST", "/namespaces/default/bindings/external/pkcs11/plugin", bindTo(doc))
	if a := ask("/pkcs11/wrap-key"); a.status != 200 || string(c.open(a.body)) != "GET wrap-key map[] " {
		t.Errorf("%d %s", a.status, a.body)
	}
	asked := e.handled.Load()
	for _, path := range []string{"/pkcs11/resource/a/b/c", "/external/pkcs11/resource/a/b/c", "/pkcs11/resource/a/b/d"} {
		denied(t, w, ask(path), 403, "secret-unbound")
	}
	if e.handled.Load() != asked {
		t.Error("the plugin was asked for nobody")
	}
	w.admin.must("POST", "/namespaces/default/bindings/pkcs11.a/b/c", bindTo(doc))
	for _, path := range []string{"/pkcs11/resource/a/b/c", "/external/pkcs11/resource/a/b/c"} {
		if a := ask(path); a.status != 200 || string(c.open(a.body)) != "GET resource/a/b/c map[] " {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	denied(t, w, ask("/pkcs11/resource/a/b/d"), 403, "secret-unbound")
	w.admin.resourcePolicy("p", "pkcs11.a", `allow if { data.plugin == "pkcs11"; data["resource-path"] == ["resource", "a", "b", "c"] }`, "GET")
	if a := ask("/pkcs11/resource/a/b/c"); a.status != 200 {
		t.Errorf("allowed by a policy: %d %s", a.status, a.body)
	}
	denied(t, w, ask("/external/pkcs11/resource/a/b/c"), 403, "resource-policy-denied")
	a := w.client("").do("POST", "/pkcs11/wrap-key", []byte("key"), "Authorization", "Bearer "+w.admin.token("POST", "/kbs/v0/pkcs11/wrap-key"))
	if a.status != 200 || string(a.body) != "POST wrap-key map[] key" {
		t.Errorf("an administrator: %d %s", a.status, a.body)
	}
	if a := c.do("POST", "/pkcs11/resource/a/b/c", []byte("x")); a.status != 401 {
		t.Errorf("a guest writes: %d %s", a.status, a.body)
	}
}
