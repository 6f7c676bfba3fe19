package sev

import (
	"crypto"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// vendorCertificate is AMD's own: the ARK or the ASK.
type vendorCertificate struct {
	usage               uint32
	keyID, certifyingID [16]byte
	key                 *rsa.PublicKey
	signed, signature   []byte
}

const vendorHeader = 0x40

// parseVendor reads one of AMD's certificates and gives what follows it.
func parseVendor(b []byte, usage uint32) (*vendorCertificate, []byte, error) {
	fail := func(format string, a ...any) (*vendorCertificate, []byte, error) {
		return nil, nil, fmt.Errorf(names[usage]+": "+format, a...)
	}
	if len(b) < vendorHeader {
		return fail("%d bytes are none", len(b))
	}
	le := binary.LittleEndian
	c := &vendorCertificate{usage: le.Uint32(b[0x24:])}
	copy(c.keyID[:], b[0x4:])
	copy(c.certifyingID[:], b[0x14:])
	exponent, modulus := int(le.Uint32(b[0x38:])), int(le.Uint32(b[0x3c:]))
	switch {
	case le.Uint32(b) != 1:
		return fail("version %d, not 1", le.Uint32(b))
	case c.usage != usage:
		return fail("the key in its place is for usage %#x", c.usage)
	case modulus != 2048 && modulus != 4096 || exponent != 2048 && exponent != 4096:
		return fail("a key of %d bits with an exponent of %d", modulus, exponent)
	}
	e, m := exponent/8, modulus/8
	end := vendorHeader + e + 2*m
	if len(b) < end {
		return fail("%d bytes, and it says %d", len(b), end)
	}
	reversed := func(b []byte) []byte { b = slices.Clone(b); slices.Reverse(b); return b }
	pub := new(big.Int).SetBytes(reversed(b[vendorHeader:][:e]))
	if !pub.IsInt64() || pub.Int64() < 3 || pub.Int64() > 1<<31-1 {
		return fail("its exponent is out of range")
	}
	c.key = &rsa.PublicKey{N: new(big.Int).SetBytes(reversed(b[vendorHeader+e:][:m])), E: int(pub.Int64())}
	if c.key.N.BitLen() != modulus {
		return fail("its modulus has %d bits, and it says %d", c.key.N.BitLen(), modulus)
	}
	c.signed, c.signature = b[:vendorHeader+e+m], reversed(b[vendorHeader+e+m:end])
	return c, b[end:], nil
}

// verify checks what the key of c has signed.
func (c *vendorCertificate) verify(algorithm uint32, signed, signature []byte) error {
	digest, err := digestFor(algorithm, algorithmRSASHA256, algorithmRSASHA384, signed)
	if err != nil {
		return err
	}
	hash := crypto.SHA256
	if algorithm == algorithmRSASHA384 {
		hash = crypto.SHA384
	}
	if err := rsa.VerifyPSS(c.key, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}); err != nil {
		return errors.New("wrong")
	}
	return nil
}

// algorithm is the one by which a vendor's key signs.
func (c *vendorCertificate) algorithm() uint32 {
	if c.key.N.BitLen() == 2048 {
		return algorithmRSASHA256
	}
	return algorithmRSASHA384
}

// parseVendors reads the ASK and the ARK, in this order, as AMD publishes them, and
// checks both signatures.
func parseVendors(b []byte) (ask *vendorCertificate, err error) {
	ask, rest, err := parseVendor(b, usageASK)
	if err != nil {
		return nil, err
	}
	ark, rest, err := parseVendor(rest, usageARK)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes after the ARK", len(rest))
	}
	if ask.certifyingID != ark.keyID || ark.certifyingID != ark.keyID {
		return nil, errors.New("ASK: its signer is not this ARK")
	}
	for _, c := range []*vendorCertificate{ark, ask} {
		if err := ark.verify(ark.algorithm(), c.signed, c.signature); err != nil {
			return nil, fmt.Errorf("%s: signature by ARK: %w", names[c.usage], err)
		}
	}
	return ask, nil
}
