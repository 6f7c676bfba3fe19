package trusteeapi

import (
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/internal/jws"
	"github.com/cofferproject/coffer/api/seal"
)

// Limits of an admin token.
const (
	TokenLifetime = 60 * time.Second
	maxLifetime   = 5 * time.Minute
	maxSkew       = 60 * time.Second
	maxToken      = 4 << 10
)

// TokenAudience is the aud of admin tokens.
const TokenAudience = "coffer-trustee-admin"

// TokenClaims are the claims of an admin token.
type TokenClaims struct {
	// Role, if not "", narrows the credential to its grants of that role.
	Role     Role   `json:"role,omitempty"`
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	ID       string `json:"jti"`
	// Method and Path bind the token to one request where they are present;
	// Path is the URL's path as sent, without the query.
	Method string `json:"htm,omitempty"`
	Path   string `json:"htu,omitempty"`
}

// End is when nobody takes the token any more, however wrong his clock may be.
func (c *TokenClaims) End() time.Time { return time.Unix(c.Expires, 0).Add(maxSkew) }

// Token is an admin token whose signature was not checked yet.
type Token struct {
	KeyID  string
	Claims TokenClaims

	msg *jws.Message
}

// SignToken makes a token for one request with an Ed25519 key.
func SignToken(key crypto.Signer, method, path string, now time.Time) (string, error) {
	kid, err := seal.KeyID(key.Public())
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	var id [16]byte
	rand.Read(id[:])
	payload, err := json.Marshal(TokenClaims{
		Audience: TokenAudience, IssuedAt: now.Unix(), Expires: now.Add(TokenLifetime).Unix(),
		ID: base64.RawURLEncoding.EncodeToString(id[:]), Method: method, Path: path,
	})
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	return jws.Sign(key, jws.Header{Typ: "JWT", Kid: kid}, payload)
}

// ParseToken decodes a token; nothing in it may be believed before Verify.
func ParseToken(raw string) (*Token, error) {
	m, err := jws.Split(raw, maxToken)
	if err != nil {
		return nil, fmt.Errorf("admin token: %w", err)
	}
	t := &Token{KeyID: m.Header.Kid, msg: m}
	if err := jws.DecodeStrict(m.Payload, &t.Claims); err != nil {
		return nil, fmt.Errorf("admin token: %w", err)
	}
	return t, nil
}

// Verify checks signature, audience, times and, where the token names them,
// method and path. The caller sees to it that an id is used once.
func (t *Token) Verify(pub crypto.PublicKey, method, path string, now time.Time) error {
	if err := t.msg.Verify(pub); err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	c := t.Claims
	iat, exp := time.Unix(c.IssuedAt, 0), time.Unix(c.Expires, 0)
	switch {
	case c.Audience != TokenAudience:
		return errors.New("admin token: meant for another audience")
	case c.ID == "" || len(c.ID) > 64:
		return errors.New("admin token: jti missing or too long")
	case exp.Sub(iat) > maxLifetime || !exp.After(iat):
		return fmt.Errorf("admin token: lifetime is not between 0 and %s", maxLifetime)
	case now.Add(maxSkew).Before(iat):
		return errors.New("admin token: issued in the future")
	case !now.Before(c.End()):
		return errors.New("admin token: expired")
	case c.Method != "" && c.Method != method || c.Path != "" && c.Path != path:
		return errors.New("admin token: made for another request")
	}
	return nil
}
