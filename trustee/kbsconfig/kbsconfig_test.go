package kbsconfig

import (
	"crypto/tls"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/test/vectors"
	"github.com/cofferproject/coffer/trustee/nebulaca"
	"github.com/cofferproject/coffer/trustee/plugin"
)

// refusals of the other implementation's files: everything that must be named, and
// nothing else. A file that is not here is taken.
var refusals = map[string][]string{
	"coco-as-builtin-2": {"http_server.insecure_http", "admin.authorization_mode: InsecureAllowAll"},
	"coco-as-builtin-3": {"http_server.insecure_http"},
	"coco-as-grpc-1":    {"plugins[0]: plugin \"sample\""},
	"coco-as-grpc-2":    {"http_server.insecure_http"},
	"coco-as-grpc-3":    {"http_server.insecure_http"},
	"intel-ta-1":        {"plugins[0]: plugin \"sample\""},
	"intel-ta-2":        {"http_server.insecure_http"},
	"intel-ta-3":        {"http_server.insecure_http"},
	"tls-profile-old":   {"http_server.tls_profile"},
}

func TestVectors(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors.Dir(t, "kbs"), "configs", "*.toml"))
	if err != nil || len(files) < 14 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".toml")
		t.Run(name, func(t *testing.T) {
			_, err := Read(f)
			want, refused := refusals[name]
			if (err != nil) != refused {
				t.Fatalf("error %v", err)
			}
			if err == nil {
				return
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(want) {
				t.Errorf("%d refusals, want %d:\n%v", len(lines), len(want), err)
			}
			for _, w := range want {
				if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, w) }) {
					t.Errorf("%q is not refused by\n%v", w, err)
				}
			}
		})
	}
}

const good = `
[http_server]
sockets = ["0.0.0.0:8443"]
[admin]
authorization_mode = "DenyAll"
`

func TestMapped(t *testing.T) {
	c, err := ParseTOML([]byte(good + `
[storage_backend]
storage_type = "LocalFs"
backends.local_fs.dir_path = "/old"
[[plugins]]
name = "resource"
storage_backend_type = "kvstorage"
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "0.0.0.0:8443" || !c.DenyPublishedAdmin || c.CertFile != "" {
		t.Errorf("%+v", c)
	}
	if len(c.Notes) != 3 || !strings.Contains(strings.Join(c.Notes, "\n"), "coffer-trustee import") {
		t.Errorf("notes %q", c.Notes)
	}
	c, err = ParseJSON([]byte(`{"http_server":{"payload_request_size":2,"tls_profile":"custom","tls_min_version":"1.3",
		"tls_ciphers":"TLS_AES_256_GCM_SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256","tls_groups":"X25519:secp384r1"},
		"admin":{"authorization_mode":"DenyAll"}}`))
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	c.TLS.Apply(conf)
	if conf.MinVersion != tls.VersionTLS13 || !slices.Equal(conf.CurvePreferences, []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP384}) ||
		!slices.Equal(conf.CipherSuites, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256}) {
		t.Errorf("%+v", conf)
	}
	if c.Listen != "127.0.0.1:8080" {
		t.Errorf("default address %s", c.Listen)
	}
}

func TestRefused(t *testing.T) {
	for add, want := range map[string]string{
		"[http_server.more]\nx = 1":                                                                                       "http_server.more.x: unknown key",
		"[http_servers]":                                                                                                  "http_servers: unknown key",
		"[attestation_service]\nType = \"coco_as_builtin\"":                                                               "attestation_service.Type: unknown key",
		"[attestation_service]\ntype = \"other\"":                                                                         "attestation_service.type",
		"[attestation_service]\ntimeout = 1":                                                                              "no shorter time",
		"[attestation_service.attestation_token_broker]\nduration_min = 2":                                                "no shorter time",
		"[attestation_service]\napi_key = \"s3cret\"":                                                                     "attestation_service.api_key",
		"[attestation_service.verifier_config.nvidia_verifier]\ntype = \"Remote\"":                                        "verifier_config.nvidia_verifier",
		"[attestation_token]\ninsecure_header_jwk = true":                                                                 "attestation_token.insecure_header_jwk",
		"[storage_backend]\nbackends.local_json.dir_path = \"/x\"":                                                        "backends.local_json.dir_path: unknown key",
		"[storage_backend]\nstorage_type = \"Postgres\"":                                                                  "storage_backend.storage_type",
		"[[plugins]]\nname = \"resource\"\nstorage_backend_type = \"Vault\"\ntoken = \"s3cret\"":                          "plugins[0]: vault_url and token",
		"[[plugins]]\nname = \"external\"":                                                                                "plugins[0].backends",
		"[[plugins]]\nname = \"external\"\nbackends = [{ name = \"a\" }]":                                                 "plugins[0].backends[0]",
		"[[plugins]]\nname = \"external\"\nbackends = [{ name = \"a\", endpoint = \"http://127.0.0.1:1\", pin = \"1\" }]": "plugins[0].backends[0].pin",
		"[[plugins]]\nname = \"nebula-ca\"\nca_config = { curve = \"P384\" }":                                             "plugins[0].ca_config.curve",
		"[[plugins]]\nname = \"nebula-ca\"\nca_config = { encrypt = true }":                                               "plugins[0].ca_config.encrypt: unknown key",
		"[[plugins]]\nname = \"nebula-ca\"\nca_config = 1":                                                                "plugins[0].ca_config",
		"[[plugins]]\nname = \"nebula-ca\"\nworkdir = \"/x\"":                                                             "plugins[0].workdir: unknown key",
		"[[plugins]]\nname = \"provisioner\"\nkey_length = -1":                                                            "plugins[0].key_length",
		"[[plugins]]\nname = \"provisioner\"\nlength = 32":                                                                "plugins[0].length: unknown key",
		"[[plugins]]\nname = \"pkcs11\"\nso_pin = \"s3cret\"":                                                             "plugins[0].so_pin: unknown key",
		"[[plugins]]\nname = \"sample\"":                                                                                  "plugins[0]",
		"plugin = 1":                                                                                                      "unknown key",
	} {
		_, err := ParseTOML([]byte(good + add))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", add, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("a secret is in %v", err)
		}
	}
	for doc, want := range map[string]string{
		"":                "http_server: this section is missing",
		"[http_server]\n": "admin: this section is missing",
		"[http_server]\nsockets = [\"a:1\", \"b:1\"]\n[admin]\nauthorization_mode = \"DenyAll\"":           "exactly one",
		"[http_server]\ncertificate = \"/x\"\n[admin]\nauthorization_mode = \"DenyAll\"":                   "come together",
		"[http_server]\npayload_request_size = 10\n[admin]\nauthorization_mode = \"DenyAll\"":              "2 MiB",
		"[http_server]\ntls_max_version = \"1.2\"\n[admin]\nauthorization_mode = \"DenyAll\"":              "TLS 1.3",
		"[http_server]\ntls_ciphers = \"AES128-SHA\"\n[admin]\nauthorization_mode = \"DenyAll\"":           "AES128-SHA",
		"[http_server]\ntls_ciphers = \"ECDHE-RSA-AES128-SHA\"\n[admin]\nauthorization_mode = \"DenyAll\"": "not offered",
		"[http_server]\ntls_groups = \"X448\"\n[admin]\nauthorization_mode = \"DenyAll\"":                  "X448",
		"[http_server]\n[admin]\ntype = \"Simple\"":                                                        "admin.type: unknown key",
		"[http_server]\n[admin]\n": "admin.authorization_mode: missing",
		"[http_server]\ninsecure_http = \"yes\"\n[admin]\nauthorization_mode = \"DenyAll\"":                     "not a boolean",
		"[http_server]\n[admin]\nauthorization_mode = \"DenyAll\"\n[x]\ny = " + strings.Repeat("[", 100) + "\n": "nested",
	} {
		if _, err := ParseTOML([]byte(doc)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", doc, err)
		}
	}
	p := filepath.Join(t.TempDir(), "kbs-config.ini")
	if err := os.WriteFile(p, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(p); err == nil {
		t.Error("took a file of an unknown form")
	}
}

const providers = `
[http_server]
[admin]
authorization_mode = "AuthenticatedAuthorization"
[admin.authentication.bearer_jwt]
identity_providers = [ { issuer = "idp", audience = "KBS", public_key_uri = "file:///etc/key.pem" }, { jwk_set_uri = "/etc/keys.json" } ]
[admin.authorization.regex_acl]
acls = [ { role = "writer", allowed_endpoints = "^/kbs/v0/resource/.+$" } ]
`

func TestProviders(t *testing.T) {
	c, err := ParseTOML([]byte(providers))
	if err != nil {
		t.Fatal(err)
	}
	if c.DenyPublishedAdmin || len(c.Providers) != 2 || c.Providers[0] != (Provider{Issuer: "idp", Audience: "KBS", KeyFile: "/etc/key.pem"}) || c.Providers[1].KeysFile != "/etc/keys.json" ||
		len(c.ACLs) != 1 || c.ACLs[0].Role != "writer" || !c.ACLs[0].Path.MatchString("/kbs/v0/resource/a/b/c") {
		t.Errorf("%+v", c)
	}
	for old, change := range map[string][2]string{
		"file:///etc/key.pem":            {"https://idp/key.pem", "read from files"},
		`jwk_set_uri = "/etc/keys.json"`: {`issuer = "x"`, "names a file"},
		`audience = "KBS"`:               {`aud = "KBS"`, "identity_providers[0].aud: unknown key"},
		"^/kbs/v0/resource/.+$":          {".*", "begin with ^/kbs"},
		`role = "writer"`:                {`role = ""`, "no role"},
		`acls = [ { role = "writer", allowed_endpoints = "^/kbs/v0/resource/.+$" } ]`: {`acls = 1`, "not a list"},
		`[admin.authorization.regex_acl]`:                                             {"[admin.authorization.other]", "unknown key"},
	} {
		_, err := ParseTOML([]byte(strings.Replace(providers, old, change[0], 1)))
		if err == nil || !strings.Contains(err.Error(), change[1]) {
			t.Errorf("%s: %v", change[0], err)
		}
	}
	// Without rules nobody may do anything, as there.
	if c, err := ParseTOML([]byte(providers[:strings.Index(providers, "[admin.authorization.regex_acl]")])); err != nil || !c.DenyPublishedAdmin {
		t.Errorf("%+v %v", c, err)
	}
}

// What the existing services are told about each other means the same here.
func TestOtherServices(t *testing.T) {
	c, err := ParseTOML([]byte(good + `
[attestation_token]
trusted_certs_paths = ["/etc/as-ca.pem"]
trusted_jwk_sets = ["file:///etc/keys.json"]
[attestation_service]
type = "coco_as_grpc"
as_addr = "https://as:50004"
`))
	if err != nil || c.Attestation != "https://as:50004" || !slices.Equal(c.TokenCertificates, []string{"/etc/as-ca.pem"}) || !slices.Equal(c.TokenKeySets, []string{"file:///etc/keys.json"}) {
		t.Errorf("%+v %v", c, err)
	}
	if c, err = ParseTOML([]byte(good + "[attestation_service]\ntype = \"coco_as_grpc\"\n")); err != nil || c.Attestation != "http://127.0.0.1:50004" {
		t.Errorf("%+v %v", c, err)
	}
	for add, want := range map[string]string{
		"[attestation_service]\ntype = \"coco_as_builtin\"\nas_addr = \"http://as:1\"": "belongs to type coco_as_grpc",
		"[attestation_token]\ntrusted_jwk_sets = [\"https://as/keys\"]":                "no key set is fetched",
		"[attestation_service.rvps_config]\ntype = \"BuiltIn\"\naddress = \"x:1\"":     "belongs to type GrpcRemote",
		"[attestation_service.rvps_config]\ntype = \"Other\"":                          "neither BuiltIn nor GrpcRemote",
	} {
		if _, err := ParseTOML([]byte(good + add)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", add, err)
		}
	}
	for doc, tc := range map[string]struct {
		kind ServiceKind
		want string // address, or a part of the error
	}{
		`{"rvps_config":{"type":"GrpcRemote","address":"127.0.0.1:50003"},"attestation_token_broker":{"duration_min":5}}`: {AttestationService, "http://127.0.0.1:50003"},
		`{"rvps_config":{"type":"GrpcRemote","address":"https://rvps:50003"}}`:                                            {AttestationService, "https://rvps:50003"},
		`{"rvps_config":{"type":"BuiltIn","storage_type":"LocalFs"},"storage_backend":{"x":1}}`:                           {AttestationService, ""},
		`{"storage":{"storage_type":"LocalJson","backends":{}},"extractors":{"swid_extractor":{}}}`:                       {ReferenceValues, ""},
		`{"work_dir":"/opt"}`:                  {AttestationService, "work_dir: unknown key"},
		`{"type":"coco_as_grpc"}`:              {AttestationService, "type: unknown key"},
		`{"timeout":5}`:                        {AttestationService, "timeout: unknown key"},
		`{"type":"GrpcRemote"}`:                {ReferenceValues, "type: unknown key"},
		`{"attestation_token_broker":{"x":1}}`: {AttestationService, "attestation_token_broker.x: unknown key"},
		`{"verifier_config":{}} {}`:            {AttestationService, "data after"},
		`{"file_path":"/opt"}`:                 {ReferenceValues, "file_path: unknown key"},
	} {
		c, err := ParseService([]byte(doc), tc.kind)
		switch {
		case err != nil && (tc.want == "" || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v", doc, err)
		case err == nil && c.ReferenceValues != tc.want:
			t.Errorf("%s: %+v", doc, c)
		}
	}
}

// FuzzParse: no file panics, and what is taken has an address.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("http_server:\n  sockets: [\"127.0.0.1:1\"]\nadmin:\n  authorization_mode: DenyAll\n"))
	f.Add([]byte(providers))
	f.Add([]byte(`{"http_server":{},"admin":{"authorization_mode":"DenyAll"},"plugins":[{"name":"resource"}]}`))
	f.Add([]byte(`{"rvps_config":{"type":"GrpcRemote","address":"127.0.0.1:50003"},"storage":{"storage_type":"LocalJson"}}`))
	f.Add([]byte("[http_server]\ntls_ciphers = \":\"\n[admin]\nplugins = 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (*Config, error){ParseTOML, ParseJSON, ParseYAML} {
			if c, err := parse(b); err == nil && c.Listen == "" {
				t.Error("no address")
			}
		}
		for _, kind := range []ServiceKind{AttestationService, ReferenceValues} {
			if c, err := ParseService(b, kind); err == nil && c.ReferenceValues != "" && kind == ReferenceValues {
				t.Error("a service of reference values asks another one")
			}
		}
	})
}

func TestExternalPlugins(t *testing.T) {
	c, err := ParseTOML([]byte(`[http_server]
[admin]
authorization_mode = "DenyAll"
[[plugins]]
name = "resource"
[[plugins]]
name = "external"
backends = [{ name = "a", endpoint = "https://plugin.example:50051", ca_cert_path = "ca.pem", timeout_ms = 1500 }, { name = "b", endpoint = "http://127.0.0.1:2" }]
`))
	want := []plugin.Backend{{Name: "a", Endpoint: "https://plugin.example:50051", CAFile: "ca.pem", Timeout: 1500 * time.Millisecond}, {Name: "b", Endpoint: "http://127.0.0.1:2"}}
	if err != nil || !slices.Equal(c.Plugins, want) {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestPluginsInside(t *testing.T) {
	c, err := ParseTOML([]byte(`
[http_server]
[admin]
authorization_mode = "DenyAll"
[[plugins]]
name = "provisioner"
[[plugins]]
name = "nebula-ca"
work_dir = "/opt/nebula"
nebula_cert_bin_path = "/usr/bin/nebula-cert"
[plugins.ca_config]
name = "mesh"
curve = "P256"
duration = "24h"
groups = "web, db"
ips = "10.0.0.0/8"
subnets = "192.168.0.0/16"
argon_memory = 1024
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &nebulaca.Config{
		Name: "mesh", Curve: "P256", Duration: 24 * time.Hour, Groups: []string{"web", "db"}, Folder: "/opt/nebula",
		Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Subnets: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")},
	}
	if !reflect.DeepEqual(c.Nebula, want) || c.ProvisionerKeyLength != 32 || len(c.Notes) != 4 {
		t.Errorf("%+v, %d, %q", c.Nebula, c.ProvisionerKeyLength, c.Notes)
	}
	if c, err := ParseTOML([]byte(good)); err != nil || c.Nebula != nil || c.ProvisionerKeyLength != 0 {
		t.Errorf("plugins that nobody named: %+v, %v", c, err)
	}
}
