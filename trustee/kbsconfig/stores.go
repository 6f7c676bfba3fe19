package kbsconfig

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/secretstore"
)

// ResourceStore is what mappings call the store of the published resource plugin.
const ResourceStore = "resource"

// backends are the published settings of the resource plugin by its type of storage.
var backends = map[string]struct {
	keys []string
	take func(r *reader, at string, p map[string]any) *secretstore.Spec
}{
	"Vault": {[]string{"vault_url", "token", "mount_path", "verify_ssl", "ca_certs"}, (*reader).vault},
	"Aws":   {[]string{"region", "endpoint_url"}, (*reader).aws},
	"Gcp":   {[]string{"project_id", "version", "endpoint_url"}, (*reader).gcp},
}

// secrets takes where the resource plugin has its secrets: in this trustee's own store,
// or in one outside. Then the namespace default may map secrets to that, one by one: a
// path of a request never names a secret there.
func (r *reader) secrets(at string, p map[string]any) {
	const key = ".storage_backend_type"
	kind := r.setting(at, p, "storage_backend_type", "kvstorage")
	b, outside := backends[kind]
	switch {
	case kind == "Aliyun":
		r.refuse(at+key, "Aliyun: client keys of a KMS instance are not read; name the service with an access key instead (--secret-store NAME=aliyun:REGION?...)")
		return
	case kind != "kvstorage" && !outside:
		r.refuse(at+key, fmt.Sprintf("%.40q is none of kvstorage, Vault, Aws, Gcp", kind))
		return
	}
	for k := range p {
		if k != "name" && k != "storage_backend_type" && !slices.Contains(b.keys, k) {
			r.refuse(at+"."+k, "unknown key")
		}
	}
	if !outside {
		return
	}
	spec := b.take(r, at, p)
	spec.Name, spec.Namespaces = ResourceStore, []string{trusteeapi.DefaultNamespace}
	r.c.SecretStores = append(r.c.SecretStores, spec)
	r.note(at+key, "secrets are fetched from "+kind+" once they are mapped: coffer secret map NAME --store "+ResourceStore+" --source NAME-THERE")
}

// setting gives a setting that is text, or a default.
func (r *reader) setting(at string, p map[string]any, key, usual string) string {
	v, ok := p[key]
	if !ok {
		return usual
	}
	return r.text(at+"."+key, v)
}

func (r *reader) vault(at string, p map[string]any) *secretstore.Spec {
	s := &secretstore.Spec{Kind: "vault", Options: url.Values{"kv": {"1"}}, Token: r.setting(at, p, "token", "")}
	s.At = strings.TrimSuffix(r.setting(at, p, "vault_url", ""), "/") + "/" + strings.Trim(r.setting(at, p, "mount_path", "secret"), "/")
	if s.Token == "" || p["vault_url"] == nil {
		r.refuse(at, "vault_url and token are needed")
	}
	switch v, ok := p["verify_ssl"]; {
	case !ok:
		r.note(at+".verify_ssl", "certificates are always verified")
	case !r.boolean(at+".verify_ssl", v):
		r.refuse(at+".verify_ssl", "false is insecure, anybody between could read the token: write true, and who vouches for the server in ca_certs")
	}
	if v, ok := p["ca_certs"]; ok {
		if l := r.texts(at+".ca_certs", v); len(l) == 1 {
			s.Options.Set("ca", l[0])
		} else {
			r.refuse(at+".ca_certs", "exactly one file is read; it may have several certificates")
		}
	}
	return s
}

func (r *reader) aws(at string, p map[string]any) *secretstore.Spec {
	s := &secretstore.Spec{Kind: "aws", At: r.setting(at, p, "region", ""), Options: url.Values{"metadata": {"imdsv2"}}}
	if s.At == "" {
		r.refuse(at+".region", "it is needed: nothing is taken from the environment")
	}
	if e := r.setting(at, p, "endpoint_url", ""); e != "" {
		s.Options.Set("endpoint", e)
	}
	r.note(at, "credentials are the machine's role (IMDSv2); for a file, name the store by --secret-store")
	return s
}

func (r *reader) gcp(at string, p map[string]any) *secretstore.Spec {
	s := &secretstore.Spec{Kind: "gcp", At: r.setting(at, p, "project_id", ""), Options: url.Values{"metadata": {"gce"}}}
	if s.At == "" {
		r.refuse(at+".project_id", "it is needed")
	}
	if v := r.setting(at, p, "version", "latest"); v != "latest" {
		r.refuse(at+".version", "a version is said secret by secret: coffer secret map --version")
	}
	if e := r.setting(at, p, "endpoint_url", ""); e != "" {
		s.Options.Set("endpoint", e)
	}
	r.note(at, "credentials are the machine's account (metadata service); for a key file, name the store by --secret-store")
	return s
}
