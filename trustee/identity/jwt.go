package identity

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// refreshHint is how long a reader may keep the bundle, in seconds.
const refreshHint = int(keyring.IdentityLead / 3 / time.Second)

var b64 = base64.RawURLEncoding

// keyID names an authority's key for JWTs.
func keyID(pub crypto.PublicKey) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	s := sha256.Sum256(spki)
	return b64.EncodeToString(s[:16]), nil
}

// signJWT makes a JWT-SVID (its specification, sections 2 and 3), signed with ES256.
func signJWT(a *keyring.IdentitySigner, id string, audiences []string, now, end time.Time) (string, error) {
	kid, err := keyID(a.JWT.Public())
	if err != nil {
		return "", err
	}
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": kid, "typ": "JWT"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{"sub": id, "aud": audiences, "iat": now.Unix(), "exp": end.Unix()})
	if err != nil {
		return "", err
	}
	text := b64.EncodeToString(header) + "." + b64.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	der, err := a.JWT.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return "", err
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 {
		return "", errors.New("not a signature of ECDSA")
	}
	raw := make([]byte, 64) // RFC 7518, section 3.4
	sig.R.FillBytes(raw[:32])
	sig.S.FillBytes(raw[32:])
	return text + "." + b64.EncodeToString(raw), nil
}

// jwk is a member of a bundle (SPIFFE Trust Domain and Bundle, section 4.2).
type jwk struct {
	KeyType string   `json:"kty"`
	KeyID   string   `json:"kid,omitempty"`
	Use     string   `json:"use"`
	Curve   string   `json:"crv"`
	X       string   `json:"x"`
	Y       string   `json:"y"`
	Chain   [][]byte `json:"x5c,omitempty"`
}

func newJWK(use string, pub crypto.PublicKey) (*jwk, error) {
	k, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T", pub)
	}
	var e *ecdh.PublicKey
	e, err := k.ECDH()
	if err != nil {
		return nil, err
	}
	point := e.Bytes() // 4, X, Y
	return &jwk{KeyType: "EC", Use: use, Curve: "P-256", X: b64.EncodeToString(point[1:33]), Y: b64.EncodeToString(point[33:])}, nil
}

// Bundle gives a namespace's bundle in the published form: authorities that sign, will
// sign or have signed what counts still. One without a trust domain has none:
// tenant.ErrNotFound.
func (i *Issuer) Bundle(ctx context.Context, ns string) ([]byte, error) {
	domain, err := i.domain(ctx, ns)
	if err != nil {
		return nil, err
	}
	all, err := i.authorities.Bundle(ctx, ns, domain)
	if err != nil {
		return nil, err
	}
	out := struct {
		Keys    []*jwk `json:"keys"`
		Refresh int    `json:"spiffe_refresh_hint"`
	}{Keys: []*jwk{}, Refresh: refreshHint}
	for _, a := range all {
		x, err := newJWK("x509-svid", a.CA.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("bundle of %s: %w", domain, err)
		}
		x.Chain = [][]byte{a.CA.Raw}
		j, err := newJWK("jwt-svid", a.JWT.Public())
		if err != nil {
			return nil, fmt.Errorf("bundle of %s: %w", domain, err)
		}
		if j.KeyID, err = keyID(a.JWT.Public()); err != nil {
			return nil, fmt.Errorf("bundle of %s: %w", domain, err)
		}
		out.Keys = append(out.Keys, x, j)
	}
	return json.Marshal(out)
}

func (i *Issuer) domain(ctx context.Context, ns string) (string, error) {
	n, err := i.registry.Namespace(ctx, ns)
	if err == nil && n.TrustDomain == "" {
		err = fmt.Errorf("trust domain of namespace %s: %w", ns, tenant.ErrNotFound)
	}
	if err != nil {
		return "", err
	}
	return n.TrustDomain, nil
}

// Authorities lists those in a namespace's bundle, the oldest first.
func (i *Issuer) Authorities(ctx context.Context, ns string) ([]trusteeapi.IdentityAuthority, error) {
	domain, err := i.domain(ctx, ns)
	if err != nil {
		return nil, err
	}
	all, err := i.authorities.Bundle(ctx, ns, domain)
	if err != nil {
		return nil, err
	}
	out := []trusteeapi.IdentityAuthority{}
	for _, a := range all {
		out = append(out, a.IdentityAuthority)
	}
	return out, nil
}

// Rotate makes a new authority.
func (i *Issuer) Rotate(ctx context.Context, ns string, compromised bool) (*trusteeapi.IdentityAuthority, error) {
	domain, err := i.domain(ctx, ns)
	if err != nil {
		return nil, err
	}
	a, err := i.authorities.Rotate(ctx, ns, domain, compromised)
	if errors.Is(err, keyring.ErrTooManyAuthorities) {
		err = fmt.Errorf("%w: %w", err, tenant.ErrConflict)
	}
	return a, err
}
