// Package nebulaca makes credentials of Nebula overlay networks for attested guests:
// the published nebula-ca plugin (shared facts: trustee section 3.5), without the
// program that it runs.
//
// Invariants: each namespace has an authority of its own, whose key is in the store
// under the envelope key and never leaves; name and address of a credential are what
// the guest is bound to, its groups and subnets what a resource policy allows; nothing
// is issued that the authority's own limits do not admit.
//
// Trust zone: trustee.
package nebulaca

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/slackhq/nebula/cert"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/store"
)

const (
	// Name of the plugin in paths.
	Name = "nebula-ca"
	// PathCredential is what there is below it.
	PathCredential = "credential"

	// backdate is by how much the clock of a node may be late.
	backdate = time.Minute
)

// CA issues credentials.
type CA struct {
	cfg    Config
	digest string
	store  store.Store
	kek    keyring.KEK
	now    func() time.Time
}

// New makes a CA. It takes over the authority of the configured folder, if there is
// one; all others are made when first asked for.
func New(ctx context.Context, c Config, s store.Store, kek keyring.KEK, now func() time.Time) (*CA, error) {
	if s == nil || kek == nil || now == nil {
		return nil, errors.New("nebula CA: a part of the configuration is missing")
	}
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("nebula CA: %w", err)
	}
	d, err := c.digest()
	if err != nil {
		return nil, err
	}
	ca := &CA{c, d, s, kek, now}
	if c.Folder != "" {
		if err := ca.takeOver(ctx, c.Folder); err != nil {
			return nil, fmt.Errorf("nebula CA: %w", err)
		}
	}
	return ca, nil
}

// octets are bytes as the published answer has them: a list of numbers.
type octets []byte

// MarshalJSON implements json.Marshaler.
func (o octets) MarshalJSON() ([]byte, error) {
	l := make([]int, len(o))
	for i, b := range o {
		l[i] = int(b)
	}
	return json.Marshal(l)
}

type credential struct {
	NodeCert octets `json:"node_crt"` // PEM, as the others
	NodeKey  octets `json:"node_key"`
	CACert   octets `json:"ca_crt"`
}

// Issue makes a key and its certificate. What the authority may not certify is
// release.ErrRefused.
func (c *CA) Issue(ctx context.Context, ns string, p *Params) ([]byte, error) {
	a, err := keyring.PluginAuthority(ctx, c.store, c.kek, c.place(ns), c.mint)
	if err != nil {
		return nil, fmt.Errorf("nebula CA of namespace %s: %w", ns, err)
	}
	defer clear(a.Key)
	signer, err := parse(a)
	if err != nil {
		return nil, fmt.Errorf("nebula CA of namespace %s: %w", ns, err)
	}
	node, key, err := c.certify(signer, p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", release.ErrRefused, err)
	}
	defer clear(key)
	out := credential{CACert: a.Cert}
	if out.NodeCert, err = node.MarshalPEM(); err != nil {
		return nil, fmt.Errorf("nebula certificate: %w", err)
	}
	out.NodeKey = cert.MarshalPrivateKeyToPEM(signer.cert.Curve(), key)
	defer clear(out.NodeKey)
	return json.Marshal(out)
}

func (c *CA) place(ns string) string { return Name + "/" + ns + "/" + c.digest }

// authority is one that can sign.
type authority struct {
	cert cert.Certificate
	key  []byte
}

// parse opens an authority and checks that its parts belong together.
func parse(a *keyring.Authority) (*authority, error) {
	ca, rest, err := cert.UnmarshalCertificateFromPEM(a.Cert)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if len(rest) > 0 {
		return nil, errors.New("certificate: more than one")
	}
	key, _, curve, err := cert.UnmarshalSigningPrivateKeyFromPEM(a.Key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	switch {
	case !ca.IsCA():
		return nil, errors.New("certificate: not of an authority")
	case ca.Curve() != curve:
		return nil, errors.New("certificate and key are of different curves")
	}
	if err := ca.VerifyPrivateKey(curve, key); err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	if !ca.CheckSignature(ca.PublicKey()) {
		return nil, errors.New("certificate: not signed by itself")
	}
	return &authority{ca, key}, nil
}

// mint makes an authority by the settings.
func (c *CA) mint() (*keyring.Authority, error) {
	now := c.now().Truncate(time.Second)
	t := &cert.TBSCertificate{
		Version: cert.Version(c.cfg.Version), Name: c.cfg.Name, Networks: c.cfg.Networks, UnsafeNetworks: c.cfg.Subnets, Groups: c.cfg.Groups,
		IsCA: true, NotBefore: now.Add(-backdate), NotAfter: now.Add(c.cfg.Duration), Curve: c.cfg.curve(),
	}
	var key []byte
	if t.Curve == cert.Curve_P256 {
		k, err := ecdh.P256().GenerateKey(rand.Reader) // for its encoding; it signs
		if err != nil {
			return nil, err
		}
		t.PublicKey, key = k.PublicKey().Bytes(), k.Bytes()
	} else {
		pub, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		t.PublicKey, key = pub, k
	}
	defer clear(key)
	crt, err := t.Sign(nil, t.Curve, key)
	if err != nil {
		return nil, err
	}
	text, err := crt.MarshalPEM()
	if err != nil {
		return nil, err
	}
	return &keyring.Authority{Cert: text, Key: cert.MarshalSigningPrivateKeyToPEM(t.Curve, key)}, nil
}

// certify makes a node's key and certificate, and verifies what came of it.
func (c *CA) certify(a *authority, p *Params) (cert.Certificate, []byte, error) {
	now := c.now().Truncate(time.Second)
	if a.cert.Expired(now) {
		return nil, nil, fmt.Errorf("the authority is valid from %s to %s", a.cert.NotBefore().UTC().Format(time.RFC3339), a.cert.NotAfter().UTC().Format(time.RFC3339))
	}
	begin, end := now.Add(-backdate), a.cert.NotAfter().Add(-time.Second)
	if begin.Before(a.cert.NotBefore()) {
		begin = a.cert.NotBefore()
	}
	if p.Lasts > 0 {
		end = now.Add(p.Lasts)
	}
	curve := a.cert.Curve()
	on := ecdh.X25519()
	if curve == cert.Curve_P256 {
		on = ecdh.P256()
	}
	key, err := on.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := &cert.TBSCertificate{
		Version: a.cert.Version(), Name: p.Name, Networks: []netip.Prefix{p.Network}, UnsafeNetworks: p.Subnets, Groups: p.Groups,
		NotBefore: begin, NotAfter: end, PublicKey: key.PublicKey().Bytes(), Curve: curve,
	}
	out, err := t.Sign(a.cert, curve, a.key)
	if err != nil {
		return nil, nil, err
	}
	// The library's own pool of authorities looks at the machine's clock.
	switch {
	case !out.CheckSignature(a.cert.PublicKey()):
		return nil, nil, errors.New("the certificate does not verify")
	case out.Expired(now):
		return nil, nil, errors.New("the certificate is not valid now")
	}
	if err := errors.Join(cert.CheckCAConstraints(a.cert, out), out.VerifyPrivateKey(curve, key.Bytes())); err != nil {
		return nil, nil, err
	}
	return out, key.Bytes(), nil
}

// takeOver keeps the authority of a folder as the default namespace's. That it has
// another one already is an error.
func (c *CA) takeOver(ctx context.Context, folder string) error {
	a, err := readFolder(folder)
	if err != nil || a == nil {
		return err
	}
	mine := bytes.Clone(a.Cert)
	if _, err := parse(a); err != nil {
		return fmt.Errorf("%s: %w", folder, err)
	}
	got, err := keyring.PluginAuthority(ctx, c.store, c.kek, c.place(trusteeapi.DefaultNamespace), func() (*keyring.Authority, error) { return a, nil })
	if err != nil {
		return err
	}
	clear(got.Key)
	if !bytes.Equal(got.Cert, mine) {
		return fmt.Errorf("%s: namespace %s has an authority already, another one: name no folder, or give the authority another name", folder, trusteeapi.DefaultNamespace)
	}
	return nil
}
