package main

import (
	"errors"
	"flag"

	"github.com/cofferproject/coffer/trustee/oidc"
)

// issuerFlags adds identity providers; what follows one is of that one.
func issuerFlags(f *flag.FlagSet, all *[]oidc.Config) {
	f.Func("admin-issuer", "OpenID Connect provider (https URL, as tokens name it) who says who an administrator is; may be repeated (docs/trustee/roles.md)", func(s string) error {
		*all = append(*all, oidc.Config{Issuer: s})
		return nil
	})
	of := func(name, help string, set func(*oidc.Config, string)) {
		f.Func(name, help+", of the provider before", func(s string) error {
			if len(*all) == 0 {
				return errors.New("no --admin-issuer before it")
			}
			set(&(*all)[len(*all)-1], s)
			return nil
		})
	}
	of("admin-issuer-audience", "the name that tokens for this trustee carry", func(c *oidc.Config, s string) { c.Audience = s })
	of("admin-issuer-claim", "claim that names somebody beside sub, such as groups or realm_access.roles; may be repeated", func(c *oidc.Config, s string) { c.Claims = append(c.Claims, s) })
	of("admin-issuer-keys", "https URL of the key set (default: as the discovery document says)", func(c *oidc.Config, s string) { c.KeysURL = s })
	of("admin-issuer-ca", "certificates (PEM) of who issues the provider's certificate (default: the machine's)", func(c *oidc.Config, s string) { c.CAFile = s })
}
