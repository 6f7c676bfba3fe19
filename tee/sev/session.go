package sev

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// KeySize is that of a session's keys and nonces, in bytes.
const KeySize = 16

// SessionSize is that of a session blob, in bytes.
const SessionSize = 128

// Keys are the owner's secrets of one launch.
type Keys struct {
	TEK, TIK [KeySize]byte
	Policy   uint32 // the guest's, which the session is bound to
}

// Session is what the host gives to the secure processor: nothing in it is secret.
type Session struct {
	DHCert []byte // CertificateSize
	Blob   []byte // SessionSize
}

// closed are the bits of a SEV policy without which the host could read the guest:
// no debugging, no other guest with the same key, and no sending of the guest, with
// which the firmware gives its memory to whatever key the host names.
const closed = 1<<0 | 1<<1 | 1<<3

// NewSession makes keys and wraps them for a platform. A policy under which the host
// could read the secret is refused.
func NewSession(p *Platform, policy uint32) (*Keys, *Session, error) {
	if p == nil || p.pdh == nil {
		return nil, nil, errors.New("sev session: no verified platform")
	}
	if policy&closed != closed {
		return nil, nil, fmt.Errorf("sev session: policy %#x lets the host debug the guest, start another one with its key, or send it away: set bits 0, 1 and 3", policy)
	}
	own, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("sev session: %w", err)
	}
	z, err := own.ECDH(p.pdh)
	if err != nil {
		return nil, nil, fmt.Errorf("sev session: %w", err)
	}
	cert, err := newCertificate(own.PublicKey().Bytes())
	if err != nil {
		return nil, nil, fmt.Errorf("sev session: %w", err)
	}
	k := &Keys{Policy: policy}
	var nonce, iv [KeySize]byte
	for _, b := range [][]byte{k.TEK[:], k.TIK[:], nonce[:], iv[:]} {
		_, _ = rand.Read(b) // never fails
	}
	return k, &Session{cert, k.wrap(z, nonce, iv)}, nil
}

// wrap makes the session blob.
func (k *Keys) wrap(z []byte, nonce, iv [KeySize]byte) []byte {
	master := derive(z, "sev-master-secret", nonce[:])
	kek, kik := derive(master, "sev-kek", nil), derive(master, "sev-kik", nil)
	wrapped := ctr(kek, iv, append(k.TEK[:len(k.TEK):len(k.TEK)], k.TIK[:]...))
	b := make([]byte, 0, SessionSize)
	b = append(b, nonce[:]...)
	b = append(b, wrapped...)
	b = append(b, iv[:]...)
	b = append(b, mac(kik, wrapped)...)
	return append(b, mac(k.TIK[:], binary.LittleEndian.AppendUint32(nil, k.Policy))...)
}

// derive is the KDF (SP 800-108 in counter mode) for one key of 16 bytes.
func derive(key []byte, label string, context []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 1)
	b = append(b, label...)
	b = append(b, 0)
	b = append(b, context...)
	return mac(key, binary.LittleEndian.AppendUint32(b, 8*KeySize))[:KeySize]
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		_, _ = h.Write(p)
	}
	return h.Sum(nil)
}

func ctr(key []byte, iv [KeySize]byte, b []byte) []byte {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // of 16 bytes
	}
	out := make([]byte, len(b))
	cipher.NewCTR(block, iv[:]).XORKeyStream(out, b)
	return out
}
