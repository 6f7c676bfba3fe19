package trusteeapi

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/internal/jws"
	"github.com/cofferproject/coffer/api/seal"
)

// BearerAudience is the aud of bearer tokens. It keeps them apart from tokens for
// one request.
const BearerAudience = "coffer-trustee-bearer"

// Bearer is the claims of a bearer token: a name for what the trustee keeps about
// it, so that taking it back works at once. It carries no role.
type Bearer struct {
	Audience string `json:"aud"`
	ID       string `json:"jti"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
}

// SignBearer makes a token with the trustee's own key.
func SignBearer(key crypto.Signer, id string, now, expires time.Time) (string, error) {
	kid, err := seal.KeyID(key.Public())
	if err != nil {
		return "", fmt.Errorf("bearer token: %w", err)
	}
	payload, err := json.Marshal(Bearer{BearerAudience, id, now.Unix(), expires.Unix()})
	if err != nil {
		return "", fmt.Errorf("bearer token: %w", err)
	}
	return jws.Sign(key, jws.Header{Typ: "JWT", Kid: kid}, payload)
}

// ErrNotBearer says that a token is not one that this key has signed.
var ErrNotBearer = errors.New("not a bearer token of this trustee")

// VerifyBearer checks everything but whether the token was taken back.
func VerifyBearer(raw string, pub crypto.PublicKey, now time.Time) (*Bearer, error) {
	kid, err := seal.KeyID(pub)
	if err != nil {
		return nil, fmt.Errorf("bearer token: %w", err)
	}
	m, err := jws.Split(raw, maxToken)
	if err != nil || m.Header.Kid != kid {
		return nil, ErrNotBearer
	}
	if err := m.Verify(pub); err != nil {
		return nil, fmt.Errorf("bearer token: %w", err)
	}
	b := new(Bearer)
	if err := jws.DecodeStrict(m.Payload, b); err != nil {
		return nil, fmt.Errorf("bearer token: %w", err)
	}
	switch {
	case b.Audience != BearerAudience || b.ID == "":
		return nil, errors.New("bearer token: meant for another audience, or without an id")
	case !now.Before(time.Unix(b.Expires, 0)):
		return nil, errors.New("bearer token: expired")
	}
	return b, nil
}
