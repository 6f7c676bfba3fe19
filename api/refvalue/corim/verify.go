package corim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"fmt"

	"github.com/veraison/go-cose"
)

// ErrUnsigned says that there is no signature to check.
var ErrUnsigned = errors.New("corim: not signed")

// Verify checks the signature with a key: Ed25519 or ECDSA on P-256 or P-384, each
// with the algorithm that belongs to it.
func (m *Manifest) Verify(pub crypto.PublicKey) error {
	if !m.Signed {
		return ErrUnsigned
	}
	want, err := algorithm(pub)
	if err != nil {
		return fmt.Errorf("corim: %w", err)
	}
	have, err := m.message.Headers.Protected.Algorithm()
	if err != nil {
		return fmt.Errorf("corim: %w", err)
	}
	if have != want {
		return fmt.Errorf("corim: signed by %s, and the key is for %s", have, want)
	}
	v, err := cose.NewVerifier(want, pub)
	if err != nil {
		return fmt.Errorf("corim: %w", err)
	}
	if err := m.message.Verify(nil, v); err != nil {
		return fmt.Errorf("corim: %w", err)
	}
	return nil
}

func algorithm(pub crypto.PublicKey) (cose.Algorithm, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return cose.AlgorithmEdDSA, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return cose.AlgorithmES256, nil
		case elliptic.P384():
			return cose.AlgorithmES384, nil
		}
	}
	return 0, fmt.Errorf("key of type %T signs no manifests", pub)
}
