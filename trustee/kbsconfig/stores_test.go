package kbsconfig

import (
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/trustee/secretstore"
)

// TestStoresOfResources reads the published settings of the resource plugin's stores.
func TestStoresOfResources(t *testing.T) {
	for add, want := range map[string]secretstore.Spec{
		"storage_backend_type = \"Vault\"\nvault_url = \"https://vault:8200\"\ntoken = \"s3cret\"\nmount_path = \"kv\"\nverify_ssl = true\nca_certs = [\"/ca.pem\"]": {
			Kind: "vault", At: "https://vault:8200/kv", Options: url.Values{"kv": {"1"}, "ca": {"/ca.pem"}}, Token: "s3cret"},
		"storage_backend_type = \"Vault\"\nvault_url = \"https://vault:8200/\"\ntoken = \"s3cret\"": {Kind: "vault", At: "https://vault:8200/secret", Options: url.Values{"kv": {"1"}}, Token: "s3cret"},
		"storage_backend_type = \"Aws\"\nregion = \"us-east-1\"\nendpoint_url = \"https://sm\"":     {Kind: "aws", At: "us-east-1", Options: url.Values{"metadata": {"imdsv2"}, "endpoint": {"https://sm"}}},
		"storage_backend_type = \"Gcp\"\nproject_id = \"p\"\nversion = \"latest\"":                  {Kind: "gcp", At: "p", Options: url.Values{"metadata": {"gce"}}},
	} {
		c, err := ParseTOML([]byte(good + "[[plugins]]\nname = \"resource\"\n" + add))
		if err != nil {
			t.Errorf("%q: %v", add, err)
			continue
		}
		want.Name, want.Namespaces = "resource", []string{"default"}
		if len(c.SecretStores) != 1 || !reflect.DeepEqual(*c.SecretStores[0], want) {
			t.Errorf("%q: %+v", add, c.SecretStores)
		}
		if notes := strings.Join(c.Notes, " "); !strings.Contains(notes, "coffer secret map") || strings.Contains(notes, "s3cret") {
			t.Errorf("notes: %s", notes)
		}
	}
	for add, want := range map[string]string{
		"storage_backend_type = \"Vault\"": "vault_url and token are needed",
		"storage_backend_type = \"Vault\"\nvault_url = \"https://v\"\ntoken = \"s3cret\"\nverify_ssl = false":        "verify_ssl: false is insecure",
		"storage_backend_type = \"Vault\"\nvault_url = \"https://v\"\ntoken = \"s3cret\"\nca_certs = [\"a\", \"b\"]": "exactly one",
		"storage_backend_type = \"Vault\"\nvault_url = \"https://v\"\ntoken = \"s3cret\"\nkv = 2":                    "kv: unknown key",
		"storage_backend_type = \"Aws\"":                                          "region",
		"storage_backend_type = \"Aws\"\nregion = \"us-east-1\"\nprofile = \"x\"": "profile: unknown key",
		"storage_backend_type = \"Gcp\"\nproject_id = \"p\"\nversion = \"3\"":     "version",
		"storage_backend_type = \"Gcp\"":                                          "project_id",
		"storage_backend_type = \"Aliyun\"\nclient_key = \"s3cret\"\npassword = \"s3cret\"\nkms_instance_id = \"x\"\ncert_pem = \"y\"": "access key",
		"storage_backend_type = \"Disk\"": "none of", "vault_url = \"https://v\"": "vault_url: unknown key", "storage_backend_type = 1": "not a string",
	} {
		_, err := ParseTOML([]byte(good + "[[plugins]]\nname = \"resource\"\n" + add))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", add, err)
		}
	}
}
