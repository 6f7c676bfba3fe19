package kbs

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
)

// What evidence can cover beside the published runtime data (addition, SPEC.md
// "Binding"). A client offers it in its request; a server that knows it confirms.
const (
	BindTLSExporter = "tls-exporter"
	BindIdentityKey = "identity-key"
	BindVerifierKey = "verifier-key"
)

// exporterLabel and exporterSize are those of RFC 9266, section 2: with an empty
// context, over TLS 1.3.
const (
	exporterLabel = "EXPORTER-Channel-Binding"
	exporterSize  = 32
)

const maxBinding = 8 // names in an offer

// Binding is what evidence covers beside the published members: exactly what the
// server has confirmed. All are unpadded base64url of 32 bytes.
type Binding struct {
	// TLSExporter is of the connection that carries POST /attest.
	TLSExporter string `json:"tls-exporter,omitempty"`
	// IdentityKey is the SHA-256 of the subject public key information of the key that
	// the guest has its identities issued for.
	IdentityKey string `json:"identity-key,omitempty"`
	// VerifierKey is the SHA-256 of the subject public key information of the server's
	// certificate on the connection that carries POST /attest.
	VerifierKey string `json:"verifier-key,omitempty"`
}

// Members names what a binding has, in a fixed order; nil has none.
func (b *Binding) Members() (out []string) {
	if b == nil {
		return nil
	}
	if b.TLSExporter != "" {
		out = append(out, BindTLSExporter)
	}
	if b.IdentityKey != "" {
		out = append(out, BindIdentityKey)
	}
	if b.VerifierKey != "" {
		out = append(out, BindVerifierKey)
	}
	return out
}

// Check reports what no server may take: nothing, or values of a wrong form.
func (b *Binding) Check() error {
	if b == nil {
		return nil
	}
	if len(b.Members()) == 0 {
		return errors.New("coffer-binding: empty")
	}
	for _, v := range []string{b.TLSExporter, b.IdentityKey, b.VerifierKey} {
		if raw, err := base64.RawURLEncoding.Strict().DecodeString(v); v != "" && (err != nil || len(raw) != sha256.Size) {
			return errors.New("coffer-binding: not the base64url of 32 bytes")
		}
	}
	return nil
}

func (b *Binding) claims() map[string]any {
	m := map[string]any{}
	if b.TLSExporter != "" {
		m[BindTLSExporter] = b.TLSExporter
	}
	if b.IdentityKey != "" {
		m[BindIdentityKey] = b.IdentityKey
	}
	if b.VerifierKey != "" {
		m[BindVerifierKey] = b.VerifierKey
	}
	return m
}

// KeyBinding gives the value of a public key, by its subject public key information.
func KeyBinding(spki []byte) string {
	s := sha256.Sum256(spki)
	return base64.RawURLEncoding.EncodeToString(s[:])
}

// ChannelBinding gives the value of a connection. One below TLS 1.3 has none: there an
// attacker in the middle can bring two connections to the same exporter (RFC 9266,
// section 4.2).
func ChannelBinding(s *tls.ConnectionState) (string, error) {
	if s == nil || s.Version < tls.VersionTLS13 {
		return "", errors.New("channel binding: the connection is not TLS 1.3")
	}
	v, err := s.ExportKeyingMaterial(exporterLabel, nil, exporterSize)
	if err != nil {
		return "", fmt.Errorf("channel binding: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(v), nil
}

// VerifierBinding gives the value of the server that a client has verified. A resumed
// connection has none: there the server has shown no certificate.
func VerifierBinding(s *tls.ConnectionState) (string, error) {
	if s == nil || s.DidResume || len(s.PeerCertificates) == 0 {
		return "", errors.New("verifier binding: the server has shown no certificate on this connection")
	}
	return KeyBinding(s.PeerCertificates[0].RawSubjectPublicKeyInfo), nil
}

// Confirmed gives what of an offer a server confirms, in the order of Members. channel
// says that the connection has a binding, verifier that the server knows which of its
// certificates it has shown there.
func Confirmed(offer []string, channel, verifier bool) (out []string) {
	if len(offer) > maxBinding {
		return nil
	}
	for _, n := range []string{BindTLSExporter, BindIdentityKey, BindVerifierKey} {
		if slices.Contains(offer, n) && (n != BindTLSExporter || channel) && (n != BindVerifierKey || verifier) {
			out = append(out, n)
		}
	}
	return out
}
