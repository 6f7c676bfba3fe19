package sim

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/cofferproject/coffer/tee/cca/token"
)

// Sign makes a token collection of any claims, also of wrong ones: tests bend
// them.
func Sign(cpak, rak *ecdsa.PrivateKey, p *token.Platform, r *token.Realm) ([]byte, error) {
	platform, err := SignClaims(cpak, p)
	if err != nil {
		return nil, fmt.Errorf("platform token: %w", err)
	}
	realm, err := SignClaims(rak, r)
	if err != nil {
		return nil, fmt.Errorf("realm token: %w", err)
	}
	return Collect(platform, realm)
}

// Collect puts two signed tokens together.
func Collect(platform, realm []byte) ([]byte, error) {
	return cbor.Marshal(cbor.Tag{Number: token.TagCollection, Content: map[int64][]byte{44234: platform, 44241: realm}})
}

// SignClaims makes a COSE_Sign1 message (ES384) of one set of claims.
func SignClaims(key *ecdsa.PrivateKey, claims any) ([]byte, error) {
	payload, err := cbor.Marshal(claims)
	if err != nil {
		return nil, err
	}
	protected, err := cbor.Marshal(map[int64]int64{1: token.AlgES384})
	if err != nil {
		return nil, err
	}
	signed, err := cbor.Marshal([]any{"Signature1", protected, []byte{}, payload})
	if err != nil {
		return nil, err
	}
	h := sha512.Sum384(signed)
	r, s, err := ecdsa.Sign(rand.Reader, key, h[:])
	if err != nil {
		return nil, err
	}
	signature := make([]byte, 96)
	r.FillBytes(signature[:48])
	s.FillBytes(signature[48:])
	return cbor.Marshal(cbor.Tag{Number: 18, Content: []any{protected, map[int64]any{}, payload, signature}})
}
