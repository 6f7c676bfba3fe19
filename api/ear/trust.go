package ear

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/internal/jws"
)

// SignerURI is the URI name in the certificate of a Coffer trustee's token key.
// It keeps the same CA's TLS certificates from signing tokens.
const SignerURI = "urn:coffer:trustee:ear-signer"

const maxChain = 8 // certificates

// JWK is a public key in the header of a token or in a JWKS. x5c holds DER in
// standard base64, the leaf first.
type JWK struct {
	Kty string   `json:"kty"`
	Crv string   `json:"crv,omitempty"`
	Alg string   `json:"alg,omitempty"`
	X   string   `json:"x,omitempty"`
	Y   string   `json:"y,omitempty"`
	N   string   `json:"n,omitempty"`
	E   string   `json:"e,omitempty"`
	X5U string   `json:"x5u,omitempty"`
	X5C []string `json:"x5c,omitempty"`
}

// JWKS is a set of keys.
type JWKS struct {
	Keys []*JWK `json:"keys"`
}

// NewJWK describes an ECDSA P-256 key and the certificates of the key.
func NewJWK(pub *ecdsa.PublicKey, chain []*x509.Certificate) (*JWK, error) {
	if pub.Curve != elliptic.P256() {
		return nil, errors.New("jwk: not a P-256 key")
	}
	k, err := pub.ECDH()
	if err != nil {
		return nil, fmt.Errorf("jwk: %w", err)
	}
	p := k.Bytes() // 4, x, y
	j := &JWK{
		Kty: "EC", Crv: "P-256", Alg: jws.ES256,
		X: base64.RawURLEncoding.EncodeToString(p[1:33]), Y: base64.RawURLEncoding.EncodeToString(p[33:]),
	}
	for i, c := range chain {
		if i == 0 && !pub.Equal(c.PublicKey) {
			return nil, errors.New("jwk: the certificate is another key's")
		}
		j.X5C = append(j.X5C, base64.StdEncoding.EncodeToString(c.Raw))
	}
	return j, nil
}

// PublicKey decodes the key: ECDSA P-256 or RSA of 2048 to 8192 bits.
func (j *JWK) PublicKey() (crypto.PublicKey, error) {
	dec := base64.RawURLEncoding.Strict().DecodeString
	switch {
	case j.Kty == "EC" && j.Crv == "P-256":
		x, errX := dec(j.X)
		y, errY := dec(j.Y)
		if errX != nil || errY != nil || len(x) != 32 || len(y) != 32 {
			return nil, errors.New("jwk: coordinates are not base64url of 32 bytes")
		}
		k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
		if err != nil {
			return nil, fmt.Errorf("jwk: %w", err)
		}
		return k, nil
	case j.Kty == "RSA":
		n, errN := dec(j.N)
		e, errE := dec(j.E)
		if errN != nil || errE != nil || len(n) > 1024 || len(e) > 4 || len(e) == 0 {
			return nil, errors.New("jwk: modulus or exponent is not base64url of a sane length")
		}
		k := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		if k.N.BitLen() < 2048 || k.N.Bit(0) == 0 || k.E < 3 || k.E&1 == 0 {
			return nil, errors.New("jwk: modulus or exponent out of range")
		}
		return k, nil
	}
	return nil, fmt.Errorf("jwk: kty %.20q with crv %.20q is not supported", j.Kty, j.Crv)
}

// Anchors says which certificates make a key that comes with a token
// trustworthy. Exactly one of Now and Floor must be set.
type Anchors struct {
	Roots []*x509.Certificate
	// Now is the time by which certificates and expiry are judged.
	Now time.Time
	// Floor is for a guest that has no time yet: certificates must not have
	// ended by then, nothing is checked about their start, and the token's
	// expiry is the caller's to judge (design.md section 4, rule Time).
	Floor time.Time
	// SignerURI must be a URI name of the leaf; "" asks for none, as published.
	SignerURI string
	// RefuseTLS, where SignerURI is "", refuses a leaf that is said to be for TLS and
	// does not name ear.SignerURI: an authority of tokens may have issued certificates
	// of servers and clients as well, and their holders judge nothing.
	RefuseTLS bool
}

// Trust checks that the key's certificates lead to an anchor and are of this
// key, and gives the key.
func (j *JWK) Trust(a Anchors) (crypto.PublicKey, error) {
	if a.Now.IsZero() == a.Floor.IsZero() {
		return nil, errors.New("trusting jwk: exactly one of time and floor must be given")
	}
	key, err := j.PublicKey()
	if err != nil {
		return nil, err
	}
	if len(j.X5C) == 0 || len(j.X5C) > maxChain {
		return nil, fmt.Errorf("trusting jwk: %d certificates, not 1 to %d", len(j.X5C), maxChain)
	}
	var chain []*x509.Certificate
	for i, s := range j.X5C {
		der, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return nil, fmt.Errorf("trusting jwk: x5c[%d]: %w", i, err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("trusting jwk: x5c[%d]: %w", i, err)
		}
		chain = append(chain, c)
	}
	if !jws.Equal(key, chain[0].PublicKey) {
		return nil, errors.New("trusting jwk: the certificate is another key's")
	}
	if a.SignerURI != "" && !slices.ContainsFunc(chain[0].URIs, func(u *url.URL) bool { return u.String() == a.SignerURI }) {
		return nil, fmt.Errorf("trusting jwk: the certificate does not name %s", a.SignerURI)
	}
	if a.RefuseTLS && forTLS(chain[0]) {
		return nil, errors.New("trusting jwk: the certificate is for TLS")
	}
	if err := a.verify(chain); err != nil {
		return nil, fmt.Errorf("trusting jwk: %w", err)
	}
	return key, nil
}

// forTLS reports that a certificate is for TLS peers and not for a signer of ours.
func forTLS(c *x509.Certificate) bool {
	if slices.ContainsFunc(c.URIs, func(u *url.URL) bool { return u.String() == SignerURI }) {
		return false
	}
	return slices.ContainsFunc(c.ExtKeyUsage, func(u x509.ExtKeyUsage) bool {
		return u == x509.ExtKeyUsageServerAuth || u == x509.ExtKeyUsageClientAuth || u == x509.ExtKeyUsageAny
	})
}

func (a Anchors) verify(chain []*x509.Certificate) error {
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	at := a.Now
	if at.IsZero() {
		// A moment at which no start date can fail, and no later than needed.
		at = a.Floor
	}
	for _, c := range a.Roots {
		roots.AddCert(c)
		if !a.Floor.IsZero() && c.NotBefore.After(at) {
			at = c.NotBefore
		}
	}
	for i, c := range chain {
		if i > 0 {
			inter.AddCert(c)
		}
		if !a.Floor.IsZero() && c.NotBefore.After(at) {
			at = c.NotBefore
		}
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: inter, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

// VerifyX5C checks a token whose header carries its key and certificates.
func VerifyX5C(token string, a Anchors) (*Claims, error) {
	m, err := jws.Split(token, MaxToken)
	if err != nil {
		return nil, fmt.Errorf("verifying ear: %w", err)
	}
	if m.Header.JWK == nil {
		return nil, errors.New("verifying ear: header carries no key")
	}
	j := new(JWK)
	if err := json.Unmarshal(m.Header.JWK, j); err != nil {
		return nil, fmt.Errorf("verifying ear: header key: %w", err)
	}
	key, err := j.Trust(a)
	if err != nil {
		return nil, fmt.Errorf("verifying ear: %w", err)
	}
	if err := m.Verify(key); err != nil {
		return nil, fmt.Errorf("verifying ear: %w", err)
	}
	return claims(m, a.Now)
}

// MarshalJWKS gives the document of a JWKS endpoint.
func MarshalJWKS(keys ...*JWK) ([]byte, error) { return json.Marshal(JWKS{keys}) }
