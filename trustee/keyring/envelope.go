// Package keyring holds the trustee's own keys and encrypts what lies in the
// store: envelope encryption, a fresh data key for each value, wrapped by a key
// encryption key that is not in the store.
//
// Invariants: every ciphertext is bound to its place (associated data), so that
// values cannot be swapped in the store; a data key is used once.
//
// Trust zone: trustee.
package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
)

const keySize = 32

// KEK wraps data keys, one for each value. It is in this process's memory: a key
// service wraps the file from which it came (OpenKEK), and is asked at the start alone.
type KEK interface {
	// ID names the key, so that a value says what it needs.
	ID() string
	Wrap(ctx context.Context, dataKey, aad []byte) ([]byte, error)
	Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error)
}

// sealed is a value at rest.
type sealed struct {
	KEK  string `json:"kek"`
	Key  []byte `json:"key"`
	Data []byte `json:"data"` // nonce, ciphertext, tag
}

// Encrypt seals a value for its place.
func Encrypt(ctx context.Context, kek KEK, place string, plain []byte) ([]byte, error) {
	dk := make([]byte, keySize)
	defer clear(dk)
	rand.Read(dk)
	wrapped, err := kek.Wrap(ctx, dk, []byte(place))
	if err != nil {
		return nil, fmt.Errorf("wrapping data key: %w", err)
	}
	data, err := gcmSeal(dk, plain, []byte(place))
	if err != nil {
		return nil, err
	}
	return json.Marshal(sealed{kek.ID(), wrapped, data})
}

// Decrypt opens a value of a place.
func Decrypt(ctx context.Context, kek KEK, place string, value []byte) ([]byte, error) {
	var s sealed
	if err := json.Unmarshal(value, &s); err != nil {
		return nil, fmt.Errorf("decrypting %s: %w", place, err)
	}
	kek, err := choose(kek, s.KEK, place)
	if err != nil {
		return nil, err
	}
	dk, err := kek.Unwrap(ctx, s.Key, []byte(place))
	if err != nil {
		return nil, fmt.Errorf("decrypting %s: %w", place, err)
	}
	defer clear(dk)
	plain, err := gcmOpen(dk, s.Data, []byte(place))
	if err != nil {
		return nil, fmt.Errorf("decrypting %s: %w", place, err)
	}
	return plain, nil
}

func gcm(key []byte) (cipher.AEAD, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(c)
}

func gcmSeal(key, plain, aad []byte) ([]byte, error) {
	g, err := gcm(key)
	if err != nil {
		return nil, err
	}
	return g.Seal(nil, nil, plain, aad), nil //nolint:gosec // this AEAD makes a random nonce itself
}

func gcmOpen(key, data, aad []byte) ([]byte, error) {
	g, err := gcm(key)
	if err != nil {
		return nil, err
	}
	plain, err := g.Open(nil, nil, data, aad)
	if err != nil {
		return nil, errors.New("authentication failed: changed, or moved from another place")
	}
	return plain, nil
}
