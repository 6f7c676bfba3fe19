package sev

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// CertificateSize is that of a platform's certificate, in bytes.
const CertificateSize = 2084

// Usages of keys.
const (
	usageARK = 0x0
	usageASK = 0x13
	usageOCA = 0x1001
	usagePEK = 0x1002
	usagePDH = 0x1003
	usageCEK = 0x1004
	usageNo  = 0x1000 // no key: a signature that is not there
)

// Algorithms.
const (
	algorithmNo          = 0x0
	algorithmRSASHA256   = 0x1
	algorithmECDSASHA256 = 0x2
	algorithmECDHSHA256  = 0x3
	algorithmRSASHA384   = 0x101
	algorithmECDSASHA384 = 0x102
	algorithmECDHSHA384  = 0x103
)

// Places in a certificate, and sizes in bytes.
const (
	atUsage     = 0x8
	atAlgorithm = 0xc
	atKey       = 0x10
	atSignature = 0x414 // what is before is signed
	sizeSig     = 8 + 512
	sizeField   = 72 // of a number of an elliptic curve
	sizeP384    = 48
	curveP384   = 2
)

var names = map[uint32]string{usageARK: "ARK", usageASK: "ASK", usageOCA: "OCA", usagePEK: "PEK", usagePDH: "PDH", usageCEK: "CEK"}

// certificate is one of a platform's.
type certificate struct {
	raw       []byte
	usage     uint32
	algorithm uint32
	key       *ecdsa.PublicKey
}

// signature is one of a certificate's two.
type signature struct {
	usage, algorithm uint32
	value            []byte
}

// parseCertificate reads a certificate that has to be of a usage.
func parseCertificate(b []byte, usage uint32) (*certificate, error) {
	c := &certificate{raw: b}
	if len(b) != CertificateSize {
		return nil, fmt.Errorf("%s: %d bytes, a certificate has %d", names[usage], len(b), CertificateSize)
	}
	if v := binary.LittleEndian.Uint32(b); v != 1 {
		return nil, fmt.Errorf("%s: version %d, not 1", names[usage], v)
	}
	c.usage, c.algorithm = binary.LittleEndian.Uint32(b[atUsage:]), binary.LittleEndian.Uint32(b[atAlgorithm:])
	if c.usage != usage {
		return nil, fmt.Errorf("%s: the key in its place is for usage %#x", names[usage], c.usage)
	}
	algorithms := []uint32{algorithmECDSASHA256, algorithmECDSASHA384}
	if usage == usagePDH {
		algorithms = []uint32{algorithmECDHSHA256, algorithmECDHSHA384}
	}
	if !slices.Contains(algorithms, c.algorithm) {
		return nil, fmt.Errorf("%s: algorithm %#x is none of this key's", names[usage], c.algorithm)
	}
	key := b[atKey:atSignature]
	if v := binary.LittleEndian.Uint32(key); v != curveP384 {
		return nil, fmt.Errorf("%s: curve %d, not P-384", names[usage], v)
	}
	x, ok1 := number(key[4:])
	y, ok2 := number(key[4+sizeField:])
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%s: a coordinate is longer than P-384's", names[usage])
	}
	var err error
	c.key, err = ecdsa.ParseUncompressedPublicKey(elliptic.P384(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil, fmt.Errorf("%s: public key: %w", names[usage], err)
	}
	return c, nil
}

// number reads a number of P-384, little-endian in 72 bytes, and gives it big-endian
// in 48.
func number(b []byte) ([]byte, bool) {
	n := slices.Clone(b[:sizeP384])
	slices.Reverse(n)
	return n, !slices.ContainsFunc(b[sizeP384:sizeField], func(c byte) bool { return c != 0 })
}

// by gives the signature by a key of a usage.
func (c *certificate) by(usage uint32) (*signature, error) {
	for i := range 2 {
		b := c.raw[atSignature+i*sizeSig:][:sizeSig]
		s := &signature{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), b[8:]}
		if s.usage == usage && s.algorithm != algorithmNo {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%s: no signature by %s", names[c.usage], names[usage])
}

// signedBy checks the signature by another certificate's key, or its own.
func (c *certificate) signedBy(signer *certificate) error {
	s, err := c.by(signer.usage)
	if err != nil {
		return err
	}
	digest, err := digestFor(s.algorithm, algorithmECDSASHA256, algorithmECDSASHA384, c.raw[:atSignature])
	if err != nil {
		return fmt.Errorf("%s: signature by %s: %w", names[c.usage], names[signer.usage], err)
	}
	r, ok1 := number(s.value)
	v, ok2 := number(s.value[sizeField:])
	if !ok1 || !ok2 || !ecdsa.Verify(signer.key, digest, new(big.Int).SetBytes(r), new(big.Int).SetBytes(v)) {
		return fmt.Errorf("%s: signature by %s: wrong", names[c.usage], names[signer.usage])
	}
	return nil
}

// digestFor gives the digest by the algorithm that a signature names.
func digestFor(algorithm, sha256s, sha384s uint32, b []byte) ([]byte, error) {
	switch algorithm {
	case sha256s:
		d := sha256.Sum256(b)
		return d[:], nil
	case sha384s:
		d := sha512.Sum384(b)
		return d[:], nil
	}
	return nil, fmt.Errorf("algorithm %#x is none of its key's", algorithm)
}

// newCertificate makes an owner's: a key for Diffie-Hellman that nobody has signed.
func newCertificate(point []byte) ([]byte, error) {
	const uncompressed = 1 + 2*sizeP384
	if len(point) != uncompressed {
		return nil, errors.New("the public key is none of P-384")
	}
	b := make([]byte, CertificateSize)
	le := binary.LittleEndian
	le.PutUint32(b, 1)
	le.PutUint32(b[atUsage:], usagePDH)
	le.PutUint32(b[atAlgorithm:], algorithmECDHSHA256)
	le.PutUint32(b[atKey:], curveP384)
	for i, n := range [][]byte{point[1 : 1+sizeP384], point[1+sizeP384:]} {
		at := b[atKey+4+i*sizeField:][:sizeP384]
		copy(at, n)
		slices.Reverse(at)
	}
	for i := range 2 {
		le.PutUint32(b[atSignature+i*sizeSig:], usageNo)
	}
	return b, nil
}
