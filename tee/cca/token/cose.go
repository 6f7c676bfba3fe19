package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/big"

	"github.com/fxamacker/cbor/v2"
)

// AlgES384 is ECDSA with SHA-384 (RFC 9053); with P-384 the one algorithm of CPAK
// and RAK.
const AlgES384 = -35

const (
	tagSign1 = 18
	sigSize  = 96
)

// ErrAlgorithm says that a token is signed with another algorithm than ES384.
var ErrAlgorithm = errors.New("signature algorithm is not ES384 (-35)")

// ErrSignature says that a signature does not verify.
var ErrSignature = errors.New("signature does not verify")

// sign1 is a COSE_Sign1 message with an attached payload.
type sign1 struct {
	protected, payload, signature []byte
	alg                           int64
}

type sign1Wire struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected cbor.RawMessage
	Payload     []byte
	Signature   []byte
}

// header is what a protected header may hold; an unknown label, "crit" among
// them, is an error.
type header struct {
	Alg         *int64          `cbor:"1,keyasint"`
	ContentType cbor.RawMessage `cbor:"3,keyasint,omitempty"`
	KeyID       []byte          `cbor:"4,keyasint,omitempty"`
}

func parseSign1(b []byte) (*sign1, error) {
	var tag cbor.RawTag
	if err := decoder.Unmarshal(b, &tag); err != nil {
		return nil, err
	}
	if tag.Number != tagSign1 {
		return nil, fmt.Errorf("tag %d, not COSE_Sign1", tag.Number)
	}
	var w sign1Wire
	if err := decoder.Unmarshal(tag.Content, &w); err != nil {
		return nil, err
	}
	// The unprotected header is signed by nobody; it is read for its form only.
	var unprotected map[int64]cbor.RawMessage
	if err := decoder.Unmarshal(w.Unprotected, &unprotected); err != nil {
		return nil, fmt.Errorf("unprotected header: %w", err)
	}
	var h header
	if err := decoder.Unmarshal(w.Protected, &h); err != nil {
		return nil, fmt.Errorf("protected header: %w", err)
	}
	if h.Alg == nil {
		return nil, errors.New("protected header names no algorithm")
	}
	return &sign1{protected: w.Protected, payload: w.Payload, signature: w.Signature, alg: *h.Alg}, nil
}

type toBeSigned struct {
	_         struct{} `cbor:",toarray"`
	Context   string
	Protected []byte
	External  []byte
	Payload   []byte
}

// digest is what is signed: SHA-384 of the Sig_structure (RFC 9052, section 4.4).
func digest(protected, payload []byte) ([]byte, error) {
	b, err := cbor.Marshal(toBeSigned{Context: "Signature1", Protected: protected, External: []byte{}, Payload: payload})
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum384(b)
	return sum[:], nil
}

func (s *sign1) verify(pub *ecdsa.PublicKey) error {
	if s.alg != AlgES384 {
		return ErrAlgorithm
	}
	if pub.Curve != elliptic.P384() {
		return errors.New("key is not on P-384")
	}
	if len(s.signature) != sigSize {
		return ErrSignature
	}
	d, err := digest(s.protected, s.payload)
	if err != nil {
		return err
	}
	r, v := new(big.Int).SetBytes(s.signature[:sigSize/2]), new(big.Int).SetBytes(s.signature[sigSize/2:])
	if !ecdsa.Verify(pub, d, r, v) {
		return ErrSignature
	}
	return nil
}

// VerifyPlatform checks the platform token's signature with a CPAK.
func (t *Token) VerifyPlatform(cpak *ecdsa.PublicKey) error { return t.platform.verify(cpak) }

// VerifyRealm checks the realm token's signature with the RAK that it carries;
// that the RAK is a realm's is for VerifyBinding to say.
func (t *Token) VerifyRealm() error { return t.realm.verify(t.Realm.rak) }

// RAKHash is the digest that the platform token's challenge must be.
func (t *Token) RAKHash() []byte {
	switch t.Realm.PublicKeyHash {
	case "sha-256":
		h := sha256.Sum256(t.Realm.PublicKey)
		return h[:]
	case "sha-384":
		h := sha512.Sum384(t.Realm.PublicKey)
		return h[:]
	case "sha-512":
		h := sha512.Sum512(t.Realm.PublicKey)
		return h[:]
	}
	return nil
}
