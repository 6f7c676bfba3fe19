package verifier

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
)

// Opener gives back what a trustee has sealed for itself into a challenge.
type Opener interface {
	// Open opens a value that was sealed for one purpose.
	Open(purpose Purpose, sealed []byte) ([]byte, error)
}

// Purpose keeps the two sealed values apart.
type Purpose string

// Purposes.
const (
	MeasurementKey Purpose = "coffer se measurement key 1"
	RequestNonce   Purpose = "coffer se request nonce 1"
)

// Sealer seals with AES-256-GCM under a key that all replicas of a trustee share.
// Guests carry what it gives like the published ciphertexts, without a look; but
// nobody else can make one, which the published RSA encryption does not give.
type Sealer struct{ aead cipher.AEAD }

// NewSealer takes 32 bytes.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("se sealer: key of %d bytes, not 32", len(key))
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("se sealer: %w", err)
	}
	a, err := cipher.NewGCMWithRandomNonce(b)
	if err != nil {
		return nil, fmt.Errorf("se sealer: %w", err)
	}
	return &Sealer{a}, nil
}

// Seal seals a value.
func (s *Sealer) Seal(purpose Purpose, value []byte) []byte {
	return s.aead.Seal(nil, nil, value, []byte(purpose)) //nolint:gosec // this AEAD makes its own random nonce and takes none
}

// Open implements Opener.
func (s *Sealer) Open(purpose Purpose, sealed []byte) ([]byte, error) {
	v, err := s.aead.Open(nil, nil, sealed, []byte(purpose))
	if err != nil {
		return nil, errors.New("not sealed by this trustee for this purpose")
	}
	return v, nil
}

// InsecureRSA opens the published form: RSA encryption with PKCS #1 v1.5 to the
// trustee's own key. Whoever knows the public key can make a measurement key of his
// own and with it any evidence. It is for evidence that was recorded elsewhere.
type InsecureRSA struct{ Key *rsa.PrivateKey }

// Open implements Opener; the purpose is lost.
func (r InsecureRSA) Open(_ Purpose, sealed []byte) ([]byte, error) {
	v, err := rsa.DecryptPKCS1v15(rand.Reader, r.Key, sealed) //nolint:staticcheck // the published form has no other
	if err != nil {
		return nil, errors.New("not encrypted to this key")
	}
	return v, nil
}
