// Package smtest signs with SM2, for tests alone: it takes no care of the key.
//
// Trust zone: tests.
package smtest

import (
	"crypto/rand"
	"math/big"

	"github.com/cofferproject/coffer/tee/internal/sm"
)

// Key is a signing key of a test.
type Key struct {
	d      *big.Int
	Public *sm.PublicKey
}

// NewKey makes a key.
func NewKey() (*Key, error) {
	d, err := rand.Int(rand.Reader, sm.Order())
	if err != nil {
		return nil, err
	}
	return KeyOf(d)
}

// KeyOf makes the key of a known scalar.
func KeyOf(d *big.Int) (*Key, error) {
	pub, err := sm.Multiple(d)
	if err != nil {
		return nil, err
	}
	return &Key{d, pub}, nil
}

// Sign signs message with a random nonce, 32 bytes big-endian each.
func (k *Key) Sign(id, message []byte) (r, s []byte, err error) {
	for {
		nonce, err := rand.Int(rand.Reader, sm.Order())
		if err != nil {
			return nil, nil, err
		}
		if r, s, err = k.SignWith(nonce, id, message); err != nil || r != nil {
			return r, s, err
		}
	}
}

// SignWith signs with a given nonce; r is nil where another one must be taken.
func (k *Key) SignWith(nonce *big.Int, id, message []byte) (r, s []byte, err error) {
	digest, err := k.Public.Digest(id, message)
	if err != nil {
		return nil, nil, err
	}
	point, err := sm.Multiple(nonce)
	if err != nil {
		return nil, nil, nil //nolint:nilerr // a nonce of zero: the caller takes another
	}
	n := sm.Order()
	rv := new(big.Int).Add(new(big.Int).SetBytes(digest), point.X())
	rv.Mod(rv, n)
	if rv.Sign() == 0 || new(big.Int).Add(rv, nonce).Cmp(n) == 0 {
		return nil, nil, nil
	}
	sv := new(big.Int).Mul(rv, k.d)
	sv.Sub(nonce, sv)
	sv.Mul(sv, new(big.Int).ModInverse(new(big.Int).Add(k.d, big.NewInt(1)), n))
	if sv.Mod(sv, n).Sign() == 0 {
		return nil, nil, nil
	}
	return rv.FillBytes(make([]byte, sm.Size)), sv.FillBytes(make([]byte, sm.Size)), nil
}
