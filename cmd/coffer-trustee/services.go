package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cofferproject/coffer/trustee/kbsconfig"
	"github.com/cofferproject/coffer/trustee/server"
	"github.com/cofferproject/coffer/trustee/trustauthority"
)

// roles are the commands that serve, by their names.
var roles = map[string]server.Role{
	"serve": server.RoleAll, "kbs": server.RoleKBS, "as": server.RoleAttestation, "rvps": server.RoleReference,
}

// serviceFlags adds what other processes do: those that are asked, and how the
// existing services' binaries spell their flags.
func serviceFlags(f *flag.FlagSet, c *server.Config, config *string) {
	f.StringVar(config, "config-file", "", "the same as --config")
	f.StringVar(config, "c", "", "the same as --config")
	f.StringVar(&c.CertFile, "https-pubkey-cert", "", "the same as --tls-cert")
	f.StringVar(&c.KeyFile, "https-prikey", "", "the same as --tls-key")
	switch c.Role {
	case server.RoleAttestation:
		f.StringVar(&c.Services.Attestation, "socket", "127.0.0.1:50004", "the same as --as-listen")
		f.StringVar(&c.Services.Attestation, "s", "127.0.0.1:50004", "the same as --as-listen")
	case server.RoleReference:
		f.StringVar(&c.Services.Reference, "address", "127.0.0.1:50003", "the same as --rvps-listen")
		f.StringVar(&c.Services.Reference, "a", "127.0.0.1:50003", "the same as --rvps-listen")
	}
	if v := &c.Remote.ReferenceValues; c.Role != server.RoleReference {
		f.StringVar(&v.Address, "reference-values", "", "URL of the Reference Value Provider Service whose values policies query in the place of this trustee's: https://host:port, or http:// on loopback")
		f.StringVar(&v.CA, "reference-ca", "", "certificates (PEM) of who issues that service's certificate")
		f.StringVar(&v.Certificate, "reference-cert", "", "certificate (PEM) to show that service")
		f.StringVar(&v.Key, "reference-key", "", "its key (PEM)")
	}
	if c.Role == server.RoleAll || c.Role == server.RoleKBS {
		p, t := &c.Remote.Peer, &c.Remote.Tokens
		f.StringVar(&p.Address, "attestation-service", "", "URL of the Attestation Service that judges evidence in the place of this process: https://host:port, or http:// on loopback")
		f.StringVar(&p.CA, "attestation-ca", "", "certificates (PEM) of who issues that service's certificate")
		f.StringVar(&p.Certificate, "attestation-cert", "", "certificate (PEM) to show that service")
		f.StringVar(&p.Key, "attestation-key", "", "its key (PEM)")
		trustAuthorityFlags(f, &c.Remote.TrustAuthority)
		f.StringVar(&c.Remote.Namespace, "attestation-namespace", "", "namespace for which that service judges and trusted tokens count (default \"default\")")
		f.Var((*names)(&t.Certificates), "trusted-cert", "certificates (PEM) of who issues certificates of other services' token keys; may be repeated")
		f.Var((*names)(&t.KeySets), "trusted-key-set", "file:// URL of a key set (JWKS) of another service's token keys; may be repeated")
	}
}

// readConfig takes the configuration file of the existing service of this role.
func readConfig(c *server.Config, path string) error {
	if c.Role == server.RoleAll || c.Role == server.RoleKBS {
		read, err := kbsconfig.Read(path)
		if err != nil {
			return err
		}
		return c.Use(read, c.Listen)
	}
	service := kbsconfig.AttestationService
	if c.Role == server.RoleReference {
		service = kbsconfig.ReferenceValues
	}
	read, err := kbsconfig.ReadService(path, service)
	if err != nil {
		return err
	}
	for _, n := range read.Notes {
		c.Log.Warn("a setting has no effect", "setting", n)
	}
	if c.Remote.ReferenceValues.Address == "" {
		c.Remote.ReferenceValues.Address = read.ReferenceValues
	}
	return nil
}

// trustAuthorityFlags are those of Intel Trust Authority.
func trustAuthorityFlags(f *flag.FlagSet, o *trustauthority.Options) {
	f.StringVar(&o.URL, "trust-authority", "", "URL of Intel Trust Authority, such as https://api.trustauthority.intel.com, which judges TDX and SGX evidence in the place of this process")
	f.Func("trust-authority-key-file", "file with its API key, readable by its owner alone", func(path string) (err error) {
		o.APIKey, err = readSecret(path)
		return err
	})
	f.StringVar(&o.Keys, "trust-authority-keys", "", "where its key set is: https URL of the set or of its OpenID configuration, file:// URL or path")
	f.Var((*names)(&o.Policies), "trust-authority-policy", "id of a policy there that evidence must match; may be repeated")
	f.BoolVar(&o.AllowUnmatched, "trust-authority-allow-unmatched", false, "take evidence that a policy does not match: it does not affirm")
	f.StringVar(&o.CAFile, "trust-authority-ca", "", "certificates (PEM) of who vouches for it (default: the system's)")
}

const maxSecretFile = 4 << 10

// readSecret reads one line that others may not read.
func readSecret(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return "", err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others (mode %04o)", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(file, maxSecretFile+1))
	if err != nil || len(b) > maxSecretFile {
		return "", fmt.Errorf("%s holds no key", path)
	}
	return strings.TrimSpace(string(b)), nil
}
