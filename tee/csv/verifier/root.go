package verifier

import (
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/tee/csv"
	"github.com/cofferproject/coffer/tee/internal/sm"
)

// Root is a key that Hygon's certificates lead to.
type Root struct {
	// X and Y are the point's coordinates, big-endian.
	X, Y []byte
	// ID is the signer's.
	ID []byte
}

// HRK is Hygon's root key. Its certificate is published at
// https://cert.hygon.cn/hrk (SM3 of the file:
// f5a46663059fdb4cdd06d097ed21782142923bb3430b3b938f23d54292094e3a). The key
// below is the one in Hygon's and Alibaba's verifier of the project rats-tls
// (hygoncert, Apache-2.0), and in another, independent one; it is a point of the
// curve, which no slip of the pen would be. SHA-256 of x followed by y:
// cfb7744bde61a72690c5d46410131a53ce3de8702f178c64d3152ea1e4194282.
func HRK() *Root {
	return &Root{
		X:  unhex("be62e14d62a4f14cf3d702db09563a75c80935e785cd1f502af5f21d92c2f62d"),
		Y:  unhex("3bab123a57bb7015584f8b97164e95384a640c10b9be884738744d68b41eb946"),
		ID: []byte("HYGON-SSD-HRK"),
	}
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err) // a constant
	}
	return b
}

// signer is a key that can check signatures.
type signer struct {
	name string
	key  *sm.PublicKey
	id   []byte
}

func (r *Root) signer() (*signer, error) {
	k, err := sm.NewPublicKey(r.X, r.Y)
	if err != nil {
		return nil, err
	}
	return &signer{"HRK", k, r.ID}, nil
}

func newSigner(name string, k *csv.PublicKey, err error) (*signer, error) {
	if err != nil {
		return nil, err
	}
	if k.Curve != csv.CurveSM2 {
		return nil, fmt.Errorf("curve %d, not SM2 (%d)", k.Curve, csv.CurveSM2)
	}
	pub, err := sm.NewPublicKey(reversed(k.X), reversed(k.Y))
	if err != nil {
		return nil, err
	}
	return &signer{name, pub, k.ID}, nil
}

func (s *signer) verify(message []byte, sig csv.Signature) bool {
	return s.key.Verify(s.id, message, reversed(sig.R), reversed(sig.S))
}

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}
