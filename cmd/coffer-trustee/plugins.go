package main

import (
	"errors"
	"flag"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/nebulaca"
	"github.com/cofferproject/coffer/trustee/plugin"
	"github.com/cofferproject/coffer/trustee/secretstore"
	"github.com/cofferproject/coffer/trustee/server"
)

var errNoPlugin = errors.New("it comes after the --plugin that it is for")

// insideFlags adds the flags of the plugins of this process.
func insideFlags(f *flag.FlagSet, c *server.Config) {
	f.IntVar(&c.ProvisionerKeyLength, "provisioner-key-length", 0, "serve the provisioner plugin, with keys of so many characters (published: 32); 0: do not")
	f.Func("nebula-ca", "serve the nebula-ca plugin: default, or KEY=VALUE with one of the published settings of its authority (name, curve, duration, groups, ips, subnets) or version; may be repeated", func(s string) error {
		if c.Nebula == nil {
			c.Nebula = &nebulaca.Config{}
		}
		if s == "default" {
			return nil
		}
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("write default or KEY=VALUE")
		}
		return c.Nebula.Set(key, value)
	})
}

// pluginFlags adds the flags of external plugins. What --plugin-ca and its neighbours
// say holds for the --plugin before them.
func pluginFlags(f *flag.FlagSet, all *[]plugin.Backend) {
	f.Func("plugin", "NAME=ENDPOINT of a plugin over gRPC, for /kbs/v0/external/NAME: https://host:port, http:// on loopback, or unix:///path; may be repeated", func(s string) error {
		name, endpoint, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("write NAME=ENDPOINT")
		}
		*all = append(*all, plugin.Backend{Name: name, Endpoint: endpoint})
		return nil
	})
	last := func(set func(b *plugin.Backend, s string) error) func(string) error {
		return func(s string) error {
			if len(*all) == 0 {
				return errNoPlugin
			}
			return set(&(*all)[len(*all)-1], s)
		}
	}
	f.Func("plugin-ca", "certificates (PEM) of who vouches for the --plugin before (default: the system's)", last(func(b *plugin.Backend, s string) error { b.CAFile = s; return nil }))
	f.Func("plugin-cert", "certificate (PEM) that is shown to the --plugin before", last(func(b *plugin.Backend, s string) error { b.CertFile = s; return nil }))
	f.Func("plugin-key", "its key (PEM)", last(func(b *plugin.Backend, s string) error { b.KeyFile = s; return nil }))
	f.Func("plugin-timeout", "how long one request to the --plugin before may take (default 10s)", last(func(b *plugin.Backend, s string) (err error) {
		b.Timeout, err = time.ParseDuration(s)
		return err
	}))
}

// secretStoreFlags adds the flag of secret stores.
func secretStoreFlags(f *flag.FlagSet, all *[]*secretstore.Spec) {
	f.Func("secret-store", "NAME=KIND:WHERE?namespaces=NS,NS&..., a store outside that has secrets, such as vault=vault:https://vault.example:8200/kv?kv=2&...; may be repeated (docs/trustee/secret-stores.md)", func(s string) error {
		spec, err := secretstore.ParseSpec(s)
		if err == nil {
			*all = append(*all, spec)
		}
		return err
	})
}
