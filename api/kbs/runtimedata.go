package kbs

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Hash algorithms that the hash negotiation may name.
const (
	HashSHA256 = "sha256"
	HashSHA384 = "sha384"
	HashSHA512 = "sha512"
)

// DefaultHash is what both sides use when the challenge selects none.
const DefaultHash = HashSHA384

// SupportedHashes is what Coffer's client offers.
var SupportedHashes = []string{HashSHA256, HashSHA384, HashSHA512}

// Hash gives the digest of b by a negotiated algorithm.
func Hash(alg string, b []byte) ([]byte, error) {
	switch alg {
	case HashSHA256:
		s := sha256.Sum256(b)
		return s[:], nil
	case HashSHA384:
		s := sha512.Sum384(b)
		return s[:], nil
	case HashSHA512:
		s := sha512.Sum512(b)
		return s[:], nil
	}
	return nil, fmt.Errorf("hash algorithm %.20q is not supported", alg)
}

// SelectedHash reads the algorithm from Challenge.ExtraParams, as published: a
// string compared without regard to case; absent: the default; else an error.
func SelectedHash(extra json.RawMessage) (string, error) {
	var m map[string]json.RawMessage
	if json.Unmarshal(extra, &m) != nil {
		return DefaultHash, nil // "" in general
	}
	v, ok := m["selected-hash-algorithm"]
	if !ok {
		return DefaultHash, nil
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		return "", errors.New("challenge: selected-hash-algorithm is not a string")
	}
	s = strings.ToLower(s)
	if _, err := Hash(s, nil); err != nil {
		return "", fmt.Errorf("challenge: %w", err)
	}
	return s, nil
}

// RuntimeDataHash gives the report data of the primary evidence: the hash of
// the canonical form of nonce, TEE key and the additional evidence's text,
// which is part of it even where it is empty.
func RuntimeDataHash(alg, nonce string, k *TEEKey, additional string) ([]byte, error) {
	return BoundRuntimeDataHash(alg, nonce, k, additional, nil)
}

// BoundRuntimeDataHash is RuntimeDataHash of runtime data with a binding; without one
// both are the same.
func BoundRuntimeDataHash(alg, nonce string, k *TEEKey, additional string, b *Binding) ([]byte, error) {
	return hashMembers(alg, BoundRuntimeDataClaims(nonce, k, additional, b))
}

// DeviceRuntimeDataHash gives the report data of additional devices.
func DeviceRuntimeDataHash(alg, nonce string, k *TEEKey) ([]byte, error) {
	return hashMembers(alg, map[string]any{"nonce": nonce, "tee-pubkey": k.members()})
}

func hashMembers(alg string, m map[string]any) ([]byte, error) {
	b, err := appendCanonical(nil, m)
	if err != nil {
		return nil, err
	}
	return Hash(alg, b)
}

// RuntimeDataClaims gives the structured runtime data as the token carries it.
func RuntimeDataClaims(nonce string, k *TEEKey, additional string) map[string]any {
	return BoundRuntimeDataClaims(nonce, k, additional, nil)
}

// BindingClaim is the member of the runtime data that has the binding.
const BindingClaim = "coffer-binding"

// BoundRuntimeDataClaims is RuntimeDataClaims of runtime data with a binding.
func BoundRuntimeDataClaims(nonce string, k *TEEKey, additional string, b *Binding) map[string]any {
	m := map[string]any{"nonce": nonce, "tee-pubkey": k.members(), "additional-evidence": additional}
	if b != nil {
		m[BindingClaim] = b.claims()
	}
	return m
}
