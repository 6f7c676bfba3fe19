package server

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/adminapi"
	"github.com/cofferproject/coffer/trustee/adminjwt"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/kbsapi"
	"github.com/cofferproject/coffer/trustee/kbsconfig"
	"github.com/cofferproject/coffer/trustee/plugin"
	"github.com/cofferproject/coffer/trustee/record"
)

// Use takes what a configuration file of the existing service says. listen, if not
// "", is kept, and so is a certificate.
func (c *Config) Use(f *kbsconfig.Config, listen string) error {
	if c.Listen = listen; listen == "" {
		c.Listen = f.Listen
	}
	if c.CertFile == "" {
		c.CertFile, c.KeyFile = f.CertFile, f.KeyFile
	}
	c.TLS, c.DenyPublishedAdmin = f.TLS, f.DenyPublishedAdmin
	c.Plugins = append(c.Plugins, f.Plugins...)
	c.SecretStores = append(c.SecretStores, f.SecretStores...)
	if f.PKCS11 && !slices.ContainsFunc(c.Plugins, func(b plugin.Backend) bool { return b.Name == kbsapi.PKCS11 }) {
		return errors.New("the file names the plugin pkcs11: start coffer-pkcs11 plugin, and say where it listens (--plugin pkcs11=unix:///...)")
	}
	if c.ProvisionerKeyLength == 0 {
		c.ProvisionerKeyLength = f.ProvisionerKeyLength
	}
	if c.Nebula == nil {
		c.Nebula = f.Nebula
	}
	if c.Remote.ReferenceValues.Address == "" {
		c.Remote.ReferenceValues.Address = f.ReferenceValues
	}
	if c.Remote.TrustAuthority.URL == "" {
		c.Remote.TrustAuthority = f.TrustAuthority
	}
	if c.Remote.Peer.Address == "" {
		c.Remote.Peer.Address = f.Attestation
	}
	c.Remote.Tokens.Certificates = append(c.Remote.Tokens.Certificates, f.TokenCertificates...)
	c.Remote.Tokens.KeySets = append(c.Remote.Tokens.KeySets, f.TokenKeySets...)
	for _, n := range f.Notes {
		c.Log.Warn("a setting has no effect", "setting", n)
	}
	if f.DenyPublishedAdmin || len(f.Providers) == 0 {
		return nil
	}
	c.PublishedAdmin = &adminjwt.Config{ACLs: f.ACLs}
	for _, p := range f.Providers {
		keys, err := providerKeys(p)
		if err != nil {
			return fmt.Errorf("identity provider %q: %w", p.Issuer, err)
		}
		c.PublishedAdmin.Providers = append(c.PublishedAdmin.Providers, adminjwt.Provider{Issuer: p.Issuer, Audience: p.Audience, Keys: keys})
	}
	return nil
}

// providerKeys reads the keys of an identity provider.
func providerKeys(p kbsconfig.Provider) ([]adminjwt.Key, error) {
	var out []adminjwt.Key
	if p.KeyFile != "" {
		b, err := readBounded(p.KeyFile, maxPEM)
		if err != nil {
			return nil, err
		}
		k, err := adminjwt.ParsePEM(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.KeyFile, err)
		}
		out = append(out, *k)
	}
	if p.KeysFile != "" {
		b, err := readBounded(p.KeysFile, maxPEM)
		if err != nil {
			return nil, err
		}
		l, err := adminjwt.ParseJWKS(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.KeysFile, err)
		}
		out = append(out, l...)
	}
	return out, nil
}

const maxPEM = 1 << 20 // bytes of certificate chain or key

// certificateFiles reads a certificate chain and its key. anchor is what a client
// needs to believe it: the last certificate of the chain.
func certificateFiles(certFile, keyFile string, now time.Time) (c *tls.Certificate, anchor []byte, err error) {
	cert, err := readBounded(certFile, maxPEM)
	if err != nil {
		return nil, nil, fmt.Errorf("TLS certificate: %w", err)
	}
	key, err := readBounded(keyFile, maxPEM)
	if err != nil {
		return nil, nil, fmt.Errorf("TLS key: %w", err)
	}
	defer clear(key)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, nil, fmt.Errorf("TLS certificate %s: %w", certFile, err)
	}
	if now.Before(pair.Leaf.NotBefore) || now.After(pair.Leaf.NotAfter) {
		return nil, nil, fmt.Errorf("TLS certificate %s: valid from %s to %s", certFile, pair.Leaf.NotBefore.Format(time.RFC3339), pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	last := pair.Certificate[len(pair.Certificate)-1]
	return &pair, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: last}), nil
}

// denyAll is the published administration where nobody may have it.
type denyAll struct{ book *record.Book }

// PublishedTrust implements kbsapi.AdminResources.
func (d denyAll) PublishedTrust(w http.ResponseWriter, r *http.Request, ns string, path []string) bool {
	if adminapi.IsPublishedTrust(r.Method, path) {
		d.PublishedResource(w, r, ns, path[0])
		return true
	}
	return false
}

// PublishedPlugin implements kbsapi.AdminResources.
func (d denyAll) PublishedPlugin(w http.ResponseWriter, r *http.Request, ns, path string, _ func(context.Context, string) ([]byte, error)) {
	d.PublishedResource(w, r, ns, path)
}

// PublishedResource implements kbsapi.AdminResources.
func (d denyAll) PublishedResource(w http.ResponseWriter, r *http.Request, ns, name string) {
	no := d.book.Deny(r.Context(), trusteeapi.Record{Kind: "admin", Namespace: ns, Peer: r.RemoteAddr, Resource: name}, &denial.Denial{
		Reason: adminapi.ReasonForbidden, Component: adminapi.Component, Claim: "published administration", Measured: r.Method, Expected: "nobody",
		Source: "authorization_mode DenyAll",
	})
	httpio.Write(w, http.StatusUnauthorized, kbs.ErrorInfo{
		Type: httpio.TypePrefix + httpio.TypeAdmin, Detail: "DenyAll authorization_mode is enabled", Reason: string(no.Reason), Claim: no.Claim, Record: no.RecordID,
	})
}
