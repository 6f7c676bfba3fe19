// Package sm verifies SM2 signatures (GB/T 32918.2-2016, with the curve of
// GB/T 32918.5-2017 and SM3), which Hygon's processors make. The standard library
// has no SM2.
//
// Invariants: verification only; nothing here touches a secret, so nothing is
// constant in time. A key is a point of the curve or an error.
//
// Trust zone: trustee and owner.
package sm

import (
	"encoding/binary"
	"errors"
	"math/big"

	"github.com/cofferproject/coffer/tee/eventlog"
)

// MaxID is the longest id of a signer, in bytes: its length in bits has 16.
const MaxID = 1<<13 - 1

// PublicKey is a point of the curve.
type PublicKey struct{ x, y *big.Int }

// NewPublicKey takes the coordinates, big-endian.
func NewPublicKey(x, y []byte) (*PublicKey, error) {
	k := &PublicKey{new(big.Int).SetBytes(x), new(big.Int).SetBytes(y)}
	if k.x.Cmp(p) >= 0 || k.y.Cmp(p) >= 0 || !onCurve(k.x, k.y) {
		return nil, errors.New("SM2 public key is not on the curve")
	}
	return k, nil
}

// Bytes gives x and y, 32 bytes each.
func (k *PublicKey) Bytes() []byte {
	out := make([]byte, 2*Size)
	k.x.FillBytes(out[:Size])
	k.y.FillBytes(out[Size:])
	return out
}

// Digest is what a signature of id's owner over message signs: SM3(Z || message),
// where Z is SM3 over id, curve and key.
func (k *PublicKey) Digest(id, message []byte) ([]byte, error) {
	if len(id) > MaxID {
		return nil, errors.New("SM2 id is too long")
	}
	z := binary.BigEndian.AppendUint16(nil, uint16(len(id)*8))
	z = append(z, id...)
	for _, v := range []*big.Int{a, b, gx, gy, k.x, k.y} {
		z = append(z, v.FillBytes(make([]byte, Size))...)
	}
	return eventlog.SM3.Hash(append(eventlog.SM3.Hash(z), message...)), nil
}

// Verify checks the signature (r, s; big-endian) over message.
func (k *PublicKey) Verify(id, message, r, s []byte) bool {
	digest, err := k.Digest(id, message)
	if err != nil {
		return false
	}
	rv, sv := new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)
	for _, v := range []*big.Int{rv, sv} {
		if v.Sign() == 0 || v.Cmp(n) >= 0 {
			return false
		}
	}
	t := new(big.Int).Add(rv, sv)
	if t.Mod(t, n).Sign() == 0 {
		return false
	}
	x, _, ok := combine(sv, affine(gx, gy), t, affine(k.x, k.y)).affine()
	if !ok {
		return false
	}
	e := new(big.Int).SetBytes(digest)
	e.Add(e, x)
	return e.Mod(e, n).Cmp(rv) == 0
}

// Multiple gives k*G, for tests that make keys; k is not kept secret.
func Multiple(k *big.Int) (*PublicKey, error) {
	x, y, ok := combine(k, affine(gx, gy), new(big.Int), affine(gx, gy)).affine()
	if !ok {
		return nil, errors.New("SM2 scalar is a multiple of the order")
	}
	return &PublicKey{x, y}, nil
}

// Order is the number of points.
func Order() *big.Int { return new(big.Int).Set(n) }

// X is the point's first coordinate.
func (k *PublicKey) X() *big.Int { return new(big.Int).Set(k.x) }
