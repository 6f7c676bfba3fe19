package ear

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/cofferproject/coffer/api/internal/jws"
)

// MaxToken is the largest token, in bytes; it must fit into an HTTP header.
const MaxToken = 96 << 10

// Leeway is by how much a token may be past its expiry.
const Leeway = 60 * time.Second

// ErrExpired says that a token was good once.
var ErrExpired = errors.New("token has expired")

// Signer signs tokens with one ES256 key.
type Signer struct {
	key    crypto.Signer
	signer *jws.Signer
	jwk    *JWK
}

// NewSigner takes an ECDSA P-256 key and the certificates of the key, the leaf
// first; without certificates the header carries the bare key.
func NewSigner(key crypto.Signer, chain []*x509.Certificate) (*Signer, error) {
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("ear signer: not an ECDSA key")
	}
	jwk, err := NewJWK(pub, chain)
	if err != nil {
		return nil, fmt.Errorf("ear signer: %w", err)
	}
	raw, err := json.Marshal(jwk)
	if err != nil {
		return nil, fmt.Errorf("ear signer: %w", err)
	}
	s, err := jws.NewSigner(key, jws.Header{Typ: "JWT", JWK: raw})
	if err != nil {
		return nil, fmt.Errorf("ear signer: %w", err)
	}
	return &Signer{key: key, jwk: jwk, signer: s}, nil
}

// JWK gives the public key as the header and the JWKS carry it.
func (s *Signer) JWK() *JWK { return s.jwk }

// Public gives the public key.
func (s *Signer) Public() crypto.PublicKey { return s.key.Public() }

// TooLargeError says that the claims make a token above MaxToken: what was attested
// has too many devices, or too many claims.
type TooLargeError struct{ Size int } // bytes

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("signing ear: token of %d bytes, at most %d", e.Size, MaxToken)
}

// Sign makes a token. The statuses are set from the vectors.
func (s *Signer) Sign(c *Claims) (string, error) {
	for name, m := range c.Submods {
		m.Status = m.Vector.Status()
		c.Submods[name] = m
	}
	if err := c.Validate(); err != nil {
		return "", fmt.Errorf("signing ear: %w", err)
	}
	payload, err := c.encode()
	if err != nil {
		return "", fmt.Errorf("signing ear: %w", err)
	}
	t, err := s.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing ear: %w", err)
	}
	if len(t) > MaxToken {
		return "", &TooLargeError{len(t)}
	}
	return t, nil
}

// Verify checks a token with keys that the caller trusts and gives its claims.
// now decides about expiry. A token that is good but for that gives ErrExpired.
func Verify(token string, now time.Time, keys ...crypto.PublicKey) (*Claims, error) {
	if now.IsZero() {
		return nil, errors.New("verifying ear: no time given")
	}
	m, err := jws.Split(token, MaxToken)
	if err != nil {
		return nil, fmt.Errorf("verifying ear: %w", err)
	}
	err = errors.New("no key is trusted")
	for _, k := range keys {
		if err = m.Verify(k); err == nil {
			return claims(m, now)
		}
	}
	return nil, fmt.Errorf("verifying ear: %w", err)
}

// claims decodes the payload of a message whose signature was verified. A zero
// time: the caller judges the times.
func claims(m *jws.Message, now time.Time) (*Claims, error) {
	if !utf8.Valid(m.Payload) {
		return nil, errors.New("verifying ear: payload is not UTF-8")
	}
	c := new(Claims)
	if err := json.Unmarshal(m.Payload, c); err != nil {
		return nil, fmt.Errorf("verifying ear: %w", err)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("verifying ear: %w", err)
	}
	if !now.IsZero() && !now.Before(time.Unix(c.Expires, 0).Add(Leeway)) {
		return nil, fmt.Errorf("verifying ear: %w", ErrExpired)
	}
	return c, nil
}
