package measure

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// IDBlock is what an owner signs so that the hardware starts nothing else
// (SNP firmware ABI, ID_BLOCK). Its signer's key digest then stands in reports.
type IDBlock struct {
	LaunchDigest [48]byte
	FamilyID     [16]byte
	ImageID      [16]byte
	GuestSVN     uint32
	Policy       uint64
}

// Sizes of the structures, in bytes.
const (
	IDBlockSize = 96
	IDAuthSize  = 4096
	keySize     = 0x404
	sigSize     = 0x200
)

// NewIDBlock makes the ID block of a launch.
func NewIDBlock(in Input, policy uint64, guestSVN uint32, family, image [16]byte) (*IDBlock, error) {
	d, err := Launch(in)
	if err != nil {
		return nil, err
	}
	if len(d) != 48 {
		return nil, errors.New("an ID block is for SNP alone")
	}
	return &IDBlock{[48]byte(d), family, image, guestSVN, policy}, nil
}

// Bytes gives the structure.
func (b *IDBlock) Bytes() []byte {
	le := binary.LittleEndian
	p := make([]byte, 0, IDBlockSize)
	p = append(p, b.LaunchDigest[:]...)
	p = append(p, b.FamilyID[:]...)
	p = append(p, b.ImageID[:]...)
	p = le.AppendUint32(p, 1) // version
	p = le.AppendUint32(p, b.GuestSVN)
	return le.AppendUint64(p, b.Policy)
}

// Auth gives the ID authentication structure: the block signed with the ID key,
// and, if there is an author key, the ID key signed with that.
func (b *IDBlock) Auth(id, author crypto.Signer) ([]byte, error) {
	p := make([]byte, IDAuthSize)
	le := binary.LittleEndian
	key, err := publicKey(id.Public())
	if err != nil {
		return nil, fmt.Errorf("ID key: %w", err)
	}
	sig, err := sign(id, b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("signing the ID block: %w", err)
	}
	le.PutUint32(p, 1) // ECDSA P-384 with SHA-384
	copy(p[0x40:], sig)
	copy(p[0x240:], key)
	if author == nil {
		return p, nil
	}
	akey, err := publicKey(author.Public())
	if err != nil {
		return nil, fmt.Errorf("author key: %w", err)
	}
	if sig, err = sign(author, key); err != nil {
		return nil, fmt.Errorf("signing the ID key: %w", err)
	}
	le.PutUint32(p[4:], 1)
	copy(p[0x680:], sig)
	copy(p[0x880:], akey)
	return p, nil
}

// KeyDigest gives what a report says of an ID key or author key.
func KeyDigest(k crypto.PublicKey) ([48]byte, error) {
	b, err := publicKey(k)
	if err != nil {
		return [48]byte{}, err
	}
	return sha512.Sum384(b), nil
}

// publicKey gives the ABI's form: curve, then both coordinates little-endian.
func publicKey(k crypto.PublicKey) ([]byte, error) {
	e, ok := k.(*ecdsa.PublicKey)
	if !ok || e.Curve != elliptic.P384() {
		return nil, errors.New("not an ECDSA key on P-384")
	}
	point, err := e.Bytes()
	if err != nil {
		return nil, err
	}
	b := make([]byte, keySize)
	b[0] = 2 // P-384
	copy(b[4:], reversed(point[1:49]))
	copy(b[4+72:], reversed(point[49:]))
	return b, nil
}

func sign(k crypto.Signer, msg []byte) ([]byte, error) {
	e, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("not an ECDSA key")
	}
	sum := sha512.Sum384(msg)
	r, s, err := ecdsa.Sign(rand.Reader, e, sum[:])
	if err != nil {
		return nil, err
	}
	b := make([]byte, sigSize)
	copy(b, reversed(fixed(r)))
	copy(b[72:], reversed(fixed(s)))
	return b, nil
}

func fixed(n *big.Int) []byte { return n.FillBytes(make([]byte, 48)) }

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}
