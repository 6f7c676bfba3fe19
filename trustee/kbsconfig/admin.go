package kbsconfig

import (
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/trustee/adminjwt"
)

const (
	keyMode      = "admin.authorization_mode"
	keyProviders = "admin.authentication.bearer_jwt.identity_providers"
	keyACLs      = "admin.authorization.regex_acl.acls"

	maxProviders = 64
)

// admin reads the administration as a whole.
func (r *reader) admin() {
	switch m := r.values[keyMode]; m {
	case "DenyAll":
		r.c.DenyPublishedAdmin = true
		r.note(keyMode, "nobody administrates over /kbs/v0; Coffer's own administration keeps its credential (admin.key)")
	case "InsecureAllowAll":
		r.refuse(keyMode, "InsecureAllowAll lets anybody change secrets and policies: use DenyAll, and administrate with the credential that the first start makes (admin.key)")
	case "AuthenticatedAuthorization":
		r.providers()
		r.acls()
		if len(r.c.Providers) == 0 || len(r.c.ACLs) == 0 { // as there: nobody can
			r.c.DenyPublishedAdmin = true
			r.note(keyMode, "without identity providers or acls nobody administrates over /kbs/v0; Coffer's own administration keeps its credential (admin.key)")
		}
	case nil:
		r.refuse(keyMode, "missing: DenyAll")
	default:
		r.refuse(keyMode, fmt.Sprintf("%.40v is no mode of the existing service", m))
	}
}

// tables gives a list of tables, each with known members alone, all of them texts.
func (r *reader) tables(key string, members ...string) []map[string]string {
	v, ok := r.values[key]
	if !ok {
		return nil
	}
	var l []any
	switch t := v.(type) {
	case []any:
		l = t
	case []map[string]any: // an array of tables of TOML
		for _, m := range t {
			l = append(l, m)
		}
	default:
		r.refuse(key, "not a list")
	}
	if len(l) > maxProviders {
		r.refuse(key, fmt.Sprintf("%d, at most %d", len(l), maxProviders))
		return nil
	}
	var out []map[string]string
	for i, e := range l {
		at := fmt.Sprintf("%s[%d]", key, i)
		m, ok := e.(map[string]any)
		if !ok {
			r.refuse(at, "not a table")
			continue
		}
		entry := map[string]string{}
		for _, k := range members {
			if x, ok := m[k]; ok {
				entry[k] = r.text(at+"."+k, x)
				delete(m, k)
			}
		}
		for k := range m {
			r.refuse(at+"."+k, "unknown key")
		}
		out = append(out, entry)
	}
	return out
}

func (r *reader) providers() {
	for i, m := range r.tables(keyProviders, "issuer", "audience", "public_key_uri", "jwk_set_uri") {
		at := fmt.Sprintf("%s[%d]", keyProviders, i)
		p := Provider{Issuer: m["issuer"], Audience: m["audience"], KeyFile: r.file(at, m["public_key_uri"]), KeysFile: r.file(at, m["jwk_set_uri"])}
		if p.KeyFile == "" && p.KeysFile == "" {
			r.refuse(at, "neither public_key_uri nor jwk_set_uri names a file")
		}
		r.c.Providers = append(r.c.Providers, p)
	}
}

// file takes a path or a file URI. Nothing is fetched: who answers for an address
// would decide who administrates.
func (r *reader) file(at, uri string) string {
	path := strings.TrimPrefix(uri, "file://")
	if strings.Contains(path, "://") {
		r.refuse(at, "keys of identity providers are read from files: fetch them and name the file")
		return ""
	}
	return path
}

func (r *reader) acls() {
	for i, m := range r.tables(keyACLs, "role", "allowed_endpoints") {
		at := fmt.Sprintf("%s[%d]", keyACLs, i)
		re, err := adminjwt.Compile(m["allowed_endpoints"])
		if err != nil {
			r.refuse(at, err.Error())
			continue
		}
		if m["role"] == "" {
			r.refuse(at, "no role")
		}
		r.c.ACLs = append(r.c.ACLs, adminjwt.ACL{Role: m["role"], Path: re})
	}
}
