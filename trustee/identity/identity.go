// Package identity issues short-lived SPIFFE identities (X509-SVID and JWT-SVID) to
// attested guests, and gives the bundle that they are verified with.
//
// Invariants: what an identity is called, for how long and for which audiences it counts
// is the owner's registration alone, nothing of it comes from a request; a certificate is
// for a key that the guest's evidence covered (kbs.Binding); no private key of a guest is
// ever seen here; each namespace has one trust domain with authorities of its own. Who
// may have an identity, the release gate says before anything here is asked.
//
// Trust zone: trustee.
package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/svid"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/tenant"
)

const (
	// Name of the plugin in paths and for resource policies.
	Name = svid.Plugin
	// MaxBody of a request: a certificate request.
	MaxBody = 8 << 10

	backdate = time.Minute // by which a verifier's clock may be late
)

// Issuer issues identities.
type Issuer struct {
	registry    *tenant.Registry
	authorities *keyring.Identities
	now         func() time.Time
}

// New makes an Issuer.
func New(r *tenant.Registry, a *keyring.Identities, now func() time.Time) (*Issuer, error) {
	if r == nil || a == nil || now == nil {
		return nil, errors.New("identity: a part of the configuration is missing")
	}
	return &Issuer{r, a, now}, nil
}

// Request is a certificate request that was read: its public key is all that counts.
type Request struct{ public *ecdsa.PublicKey }

// ParseRequest reads a PKCS #10 request in DER, and has its key prove itself.
func ParseRequest(der []byte) (*Request, error) {
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	k, ok := r.PublicKey.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, errors.New("certificate request: the key is not of P-256")
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return &Request{k}, nil
}

// SPKI gives the subject public key information, as the evidence must have covered it.
func (r *Request) SPKI() ([]byte, error) {
	b, err := x509.MarshalPKIXPublicKey(r.public)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return b, nil
}

// find gives a registration. One that is not there is release.ErrRefused: the gate has
// let somebody in who is bound to it.
func (i *Issuer) find(ctx context.Context, ns, name string) (*trusteeapi.Identity, string, error) {
	id, domain, err := i.registry.Identity(ctx, ns, name)
	if errors.Is(err, tenant.ErrNotFound) {
		return nil, "", fmt.Errorf("%w: %w", release.ErrRefused, err)
	}
	if err != nil {
		return nil, "", err
	}
	if !tenant.InTrustDomain(id.ID, domain) {
		return nil, "", fmt.Errorf("%w: identity %s is not of trust domain %q", release.ErrRefused, name, domain)
	}
	return id, domain, nil
}

// X509 certifies the key of a request for a registered identity.
func (i *Issuer) X509(ctx context.Context, ns, name string, r *Request) ([]byte, error) {
	id, domain, err := i.find(ctx, ns, name)
	if err != nil {
		return nil, err
	}
	a, err := i.authorities.Signer(ctx, ns, domain)
	if err != nil {
		return nil, err
	}
	now := i.now().UTC().Truncate(time.Second)
	leaf, err := certify(a, id, r.public, now)
	if err != nil {
		return nil, fmt.Errorf("certifying %s: %w", id.ID, err)
	}
	all, err := i.authorities.Bundle(ctx, ns, domain)
	if err != nil {
		return nil, err
	}
	out := svid.X509{ID: id.ID, Chain: encode(leaf.Raw), Expires: leaf.NotAfter}
	for _, b := range all {
		out.Bundle += encode(b.CA.Raw)
	}
	return json.Marshal(out)
}

func encode(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// certify makes a leaf (X509-SVID, sections 2 and 4), and verifies what came of it.
func certify(a *keyring.IdentitySigner, id *trusteeapi.Identity, pub crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	u, err := url.Parse(id.ID)
	if err != nil {
		return nil, err
	}
	var serial [16]byte
	rand.Read(serial[:])
	serial[0] &= 0x7f
	end := now.Add(id.Life())
	if end.After(a.CA.NotAfter) {
		end = a.CA.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]), NotBefore: now.Add(-backdate), NotAfter: end, URIs: []*url.URL{u}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.CA, pub, a.Key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.CA)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, err
	}
	return leaf, nil
}

// JWT signs a token for audiences, each of which the registration must have.
func (i *Issuer) JWT(ctx context.Context, ns, name string, audiences []string) ([]byte, error) {
	id, domain, err := i.find(ctx, ns, name)
	if err != nil {
		return nil, err
	}
	for _, a := range audiences {
		if !slices.Contains(id.Audiences, a) {
			return nil, fmt.Errorf("%w: identity %s is not registered for audience %.80q", release.ErrRefused, name, a)
		}
	}
	if len(audiences) == 0 {
		return nil, fmt.Errorf("%w: a token for nobody", release.ErrRefused)
	}
	a, err := i.authorities.Signer(ctx, ns, domain)
	if err != nil {
		return nil, err
	}
	now := i.now().UTC().Truncate(time.Second)
	end := now.Add(min(id.Life(), maxJWTLife))
	token, err := signJWT(a, id.ID, audiences, now, end)
	if err != nil {
		return nil, fmt.Errorf("signing a token for %s: %w", id.ID, err)
	}
	return json.Marshal(svid.JWT{ID: id.ID, Token: token, Expires: end})
}

// maxJWTLife is shorter than that of certificates: who has a token has all that it says.
const maxJWTLife = 5 * time.Minute
