// Package jws is the small part of JSON Web Signature (RFC 7515) that Coffer's
// contracts share: compact serialisation, ES256 and EdDSA (Ed25519), a protected
// header and nothing else.
//
// Invariants: "none" and "crit" do not exist here; the algorithm follows from
// the key, never from the header alone; base64url is strict and unpadded;
// everything is bounded before it is decoded.
//
// Trust zone: all. Tokens come from anybody.
package jws

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// Algorithms.
const (
	ES256 = "ES256"
	EdDSA = "EdDSA"
)

const maxHeader = 32 << 10 // bytes of JSON; a header may carry a certificate chain

// ErrSignature says that a signature does not verify with the key.
var ErrSignature = errors.New("signature does not verify")

// Message is a split, unverified JWS.
type Message struct {
	Header  Header
	Payload []byte

	signed    string
	signature []byte
}

// Header is a protected header. Members that are not listed are kept apart.
type Header struct {
	Alg  string          `json:"alg"`
	Typ  string          `json:"typ,omitempty"`
	Kid  string          `json:"kid,omitempty"`
	JWK  json.RawMessage `json:"jwk,omitempty"`
	Crit json.RawMessage `json:"crit,omitempty"`
}

// AlgorithmOf gives the algorithm that a public key signs with.
func AlgorithmOf(pub crypto.PublicKey) (string, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return EdDSA, nil
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return ES256, nil
		}
	}
	return "", fmt.Errorf("key of type %T is neither Ed25519 nor ECDSA P-256", pub)
}

// Sign gives the compact serialisation. h.Alg is set from the key.
func Sign(key crypto.Signer, h Header, payload []byte) (string, error) {
	s, err := NewSigner(key, h)
	if err != nil {
		return "", err
	}
	return s.Sign(payload)
}

// Signer signs with one key under one header, which it has encoded once.
type Signer struct {
	key    crypto.Signer
	alg    string
	header string // base64url
}

// NewSigner makes a Signer. h.Alg is set from the key.
func NewSigner(key crypto.Signer, h Header) (*Signer, error) {
	var err error
	if h.Alg, err = AlgorithmOf(key.Public()); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	hdr, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return &Signer{key, h.Alg, base64.RawURLEncoding.EncodeToString(hdr)}, nil
}

// Sign gives the compact serialisation.
func (s *Signer) Sign(payload []byte) (string, error) {
	b64 := base64.RawURLEncoding
	out := make([]byte, 0, len(s.header)+b64.EncodedLen(len(payload))+b64.EncodedLen(ed25519.SignatureSize)+2)
	out = b64.AppendEncode(append(append(out, s.header...), '.'), payload)
	var sig []byte
	var err error
	if s.alg == EdDSA {
		sig, err = s.key.Sign(nil, out, crypto.Hash(0))
	} else {
		sig, err = signES256(s.key, out)
	}
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return string(b64.AppendEncode(append(out, '.'), sig)), nil
}

// Split decodes a compact serialisation of at most limit bytes. Nothing in the
// message may be believed before Verify.
func Split(token string, limit int) (*Message, error) {
	if len(token) > limit {
		return nil, fmt.Errorf("token of %d bytes, at most %d", len(token), limit)
	}
	h, rest, ok1 := strings.Cut(token, ".")
	p, s, ok2 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || strings.Contains(s, ".") {
		return nil, errors.New("token has not three parts")
	}
	if base64.RawURLEncoding.DecodedLen(len(h)) > maxHeader {
		return nil, errors.New("token header too long")
	}
	dec := base64.RawURLEncoding.Strict()
	hdr, err := decodeString(dec, h)
	if err != nil {
		return nil, fmt.Errorf("token header: %w", err)
	}
	m := &Message{signed: token[:len(h)+1+len(p)]}
	if m.Payload, err = decodeString(dec, p); err != nil {
		return nil, fmt.Errorf("token payload: %w", err)
	}
	if m.signature, err = decodeString(dec, s); err != nil {
		return nil, fmt.Errorf("token signature: %w", err)
	}
	if err := json.Unmarshal(hdr, &m.Header); err != nil {
		return nil, fmt.Errorf("token header: %w", err)
	}
	if m.Header.Crit != nil {
		return nil, errors.New("token header: crit is not supported")
	}
	return m, nil
}

// decodeString refuses the line breaks that the decoder would skip.
func decodeString(e *base64.Encoding, s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line break in base64")
	}
	return e.DecodeString(s)
}

// Verify checks the signature with a key that the caller trusts.
func (m *Message) Verify(pub crypto.PublicKey) error {
	alg, err := AlgorithmOf(pub)
	if err != nil {
		return err
	}
	if m.Header.Alg != alg {
		return fmt.Errorf("algorithm %.20q does not fit the key's, %s", m.Header.Alg, alg)
	}
	if k, ok := pub.(ed25519.PublicKey); ok {
		if !ed25519.Verify(k, []byte(m.signed), m.signature) {
			return ErrSignature
		}
		return nil
	}
	if len(m.signature) != 64 {
		return ErrSignature
	}
	sum := sha256.Sum256([]byte(m.signed))
	r, s := new(big.Int).SetBytes(m.signature[:32]), new(big.Int).SetBytes(m.signature[32:])
	if !ecdsa.Verify(pub.(*ecdsa.PublicKey), sum[:], r, s) {
		return ErrSignature
	}
	return nil
}

// signES256 turns the ASN.1 signature of any signer (an HSM's too) into r || s.
func signES256(key crypto.Signer, signed []byte) ([]byte, error) {
	sum := sha256.Sum256(signed)
	der, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return rawECDSA(der)
}

// Equal compares two public keys.
func Equal(a, b crypto.PublicKey) bool {
	type equaler interface{ Equal(crypto.PublicKey) bool }
	e, ok := a.(equaler)
	return ok && e.Equal(b)
}

// DecodeStrict reads exactly one JSON document without unknown members.
func DecodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("data after the document")
	}
	if _, err := d.Token(); err == nil {
		return errors.New("data after the document")
	}
	return nil
}
