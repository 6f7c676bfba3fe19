package refvalue

import (
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/cofferproject/coffer/api/internal/jws"
	"github.com/cofferproject/coffer/api/seal"
)

// Type is the typ of a signed bundle's header.
const Type = "coffer-reference-values+jwt"

// Signed is a bundle signed with an owner's key, whose signature was not yet
// checked: a compact JWS whose payload is the document of Encode.
type Signed struct {
	ID     string // lower-case hex SHA-256 of the payload
	KeyID  string // seal.KeyID of the key that signed
	Bundle *Bundle
	Raw    string

	msg *jws.Message
}

// Sign signs a bundle with an Ed25519 or ECDSA P-256 key. It must say when it
// expires.
func Sign(b *Bundle, key crypto.Signer) (*Signed, error) {
	payload, err := b.Encode()
	if err != nil {
		return nil, err
	}
	kid, err := seal.KeyID(key.Public())
	if err != nil {
		return nil, fmt.Errorf("signing reference values: %w", err)
	}
	raw, err := jws.Sign(key, jws.Header{Typ: Type, Kid: kid}, payload)
	if err != nil {
		return nil, fmt.Errorf("signing reference values: %w", err)
	}
	return ParseSigned(raw)
}

// ParseSigned decodes a signed bundle without checking its signature.
func ParseSigned(raw string) (*Signed, error) {
	raw = strings.TrimSpace(raw)
	m, err := jws.Split(raw, MaxSize)
	if err != nil {
		return nil, fmt.Errorf("parsing signed reference values: %w", err)
	}
	switch {
	case m.Header.Typ != Type:
		return nil, fmt.Errorf("parsing signed reference values: type %.40q is not %s", m.Header.Typ, Type)
	case len(m.Header.Kid) != 2*sha256.Size || strings.ToLower(m.Header.Kid) != m.Header.Kid:
		return nil, errors.New("parsing signed reference values: kid is not the SHA-256 of a key")
	case !utf8.Valid(m.Payload):
		return nil, errors.New("parsing signed reference values: not UTF-8")
	}
	b, err := Parse(m.Payload)
	if err != nil {
		return nil, err
	}
	if b.Expires.IsZero() {
		return nil, errors.New("parsing signed reference values: no expiry")
	}
	sum := sha256.Sum256(m.Payload)
	return &Signed{ID: hex.EncodeToString(sum[:]), KeyID: m.Header.Kid, Bundle: b, Raw: raw, msg: m}, nil
}

// Verify checks the signature with an owner's key.
func (s *Signed) Verify(pub crypto.PublicKey) error {
	kid, err := seal.KeyID(pub)
	if err != nil {
		return fmt.Errorf("verifying reference values: %w", err)
	}
	if kid != s.KeyID {
		return fmt.Errorf("verifying reference values: signed with key %s, not %s", s.KeyID, kid)
	}
	if err := s.msg.Verify(pub); err != nil {
		return fmt.Errorf("verifying reference values: %w", err)
	}
	return nil
}

// IsSigned reports whether a document is a signed bundle rather than JSON.
func IsSigned(doc []byte) bool {
	s := strings.TrimSpace(string(doc[:min(len(doc), 64)]))
	return s != "" && s[0] != '{'
}
