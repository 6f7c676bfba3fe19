package kbs

import (
	"crypto/aes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

// keyWrapIV is the default initial value of RFC 3394, section 2.2.3.1.
const keyWrapIV = 0xA6A6A6A6A6A6A6A6

// wrapKey is RFC 3394 key wrap with an AES key.
func wrapKey(kek, key []byte) ([]byte, error) {
	if len(key)%8 != 0 || len(key) < 16 {
		return nil, errors.New("key wrap: key is not a multiple of 8 bytes, or shorter than 16")
	}
	c, err := aes.NewCipher(kek)
	if err != nil {
		return nil, fmt.Errorf("key wrap: %w", err)
	}
	n := len(key) / 8
	out := make([]byte, 8+len(key))
	copy(out[8:], key)
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], keyWrapIV)
	for t := range 6 * n {
		r := out[8+8*(t%n):][:8]
		copy(b[8:], r)
		c.Encrypt(b[:], b[:])
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(t+1))
		copy(r, b[8:])
	}
	copy(out, b[:8])
	return out, nil
}

// unwrapKey is the inverse of wrapKey.
func unwrapKey(kek, wrapped []byte) ([]byte, error) {
	if len(wrapped)%8 != 0 || len(wrapped) < 24 {
		return nil, errors.New("key unwrap: wrapped key of a wrong length")
	}
	c, err := aes.NewCipher(kek)
	if err != nil {
		return nil, fmt.Errorf("key unwrap: %w", err)
	}
	n := len(wrapped)/8 - 1
	out := make([]byte, 8*n)
	copy(out, wrapped[8:])
	var b [16]byte
	copy(b[:8], wrapped)
	for t := 6*n - 1; t >= 0; t-- {
		r := out[8*(t%n):][:8]
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(t+1))
		copy(b[8:], r)
		c.Decrypt(b[:], b[:])
		copy(r, b[8:])
	}
	var iv [8]byte
	binary.BigEndian.PutUint64(iv[:], keyWrapIV)
	if subtle.ConstantTimeCompare(iv[:], b[:8]) != 1 {
		clear(out)
		return nil, errors.New("key unwrap: integrity check failed")
	}
	return out, nil
}

// concatKDF derives the 256-bit key of ECDH-ES+A256KW (RFC 7518, section 4.6.2,
// PartyUInfo and PartyVInfo empty): one round of SHA-256.
func concatKDF(z []byte) []byte {
	h := sha256.New()
	u32 := func(n int) { h.Write(binary.BigEndian.AppendUint32(nil, uint32(n))) }
	u32(1)
	h.Write(z)
	u32(len(AlgECDH))
	h.Write([]byte(AlgECDH))
	u32(0)
	u32(0)
	u32(256)
	return h.Sum(nil)
}
