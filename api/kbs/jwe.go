package kbs

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

const encA256GCM = "A256GCM"

// Limits of a response.
const (
	MaxResource = 2 << 20 // bytes of plaintext
	MaxJWE      = 3 << 20 // bytes of JSON
	maxHeader   = 4 << 10
)

// jweJSON is the flattened JWE; every member is base64url without padding.
type jweJSON struct {
	Protected    string `json:"protected"`
	EncryptedKey string `json:"encrypted_key"`
	IV           string `json:"iv"`
	Ciphertext   string `json:"ciphertext"`
	Tag          string `json:"tag"`
}

// Seal encrypts a resource to a TEE key. The protected header has the published
// member order (alg, enc, then sorted), because deployed clients rebuild the
// header from its parsed form to get the additional data.
func Seal(k *TEEKey, plaintext []byte) ([]byte, error) {
	if err := k.check(); err != nil {
		return nil, fmt.Errorf("sealing response: %w", err)
	}
	if len(plaintext) > MaxResource {
		return nil, fmt.Errorf("sealing response: %d bytes, at most %d", len(plaintext), MaxResource)
	}
	cek := make([]byte, 32)
	defer clear(cek)
	rand.Read(cek)
	var header string
	var wrapped []byte
	var err error
	switch {
	case k.mlkem != nil:
		header, wrapped, err = sealMLKEM(k.mlkem, cek)
	case k.rsa != nil:
		header = `{"alg":"` + AlgRSA + `","enc":"` + encA256GCM + `"}`
		wrapped, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, k.rsa, cek, nil)
	default:
		header, wrapped, err = sealECDH(k.ec, cek)
	}
	if err != nil {
		return nil, fmt.Errorf("sealing response: %w", err)
	}
	iv := make([]byte, 12)
	rand.Read(iv)
	return assemble(header, wrapped, cek, iv, plaintext)
}

func sealECDH(k *ecdh.PublicKey, cek []byte) (header string, wrapped []byte, err error) {
	eph, err := k.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, err
	}
	z, err := eph.ECDH(k)
	if err != nil {
		return "", nil, err
	}
	kek := concatKDF(z)
	defer clear(kek)
	defer clear(z)
	if wrapped, err = wrapKey(kek, cek); err != nil {
		return "", nil, err
	}
	epk, err := NewTEEKey(eph.PublicKey())
	if err != nil {
		return "", nil, err
	}
	return `{"alg":"` + AlgECDH + `","enc":"` + encA256GCM + `","epk":{"crv":"` + epk.crv +
		`","kty":"EC","x":"` + epk.x + `","y":"` + epk.y + `"}}`, wrapped, nil
}

func assemble(header string, wrapped, cek, iv, plaintext []byte) ([]byte, error) {
	gcm, err := newGCM(cek)
	if err != nil {
		return nil, fmt.Errorf("sealing response: %w", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	protected := b64([]byte(header))
	sealed := gcm.Seal(nil, iv, plaintext, []byte(protected))
	n := len(sealed) - gcm.Overhead()
	return json.Marshal(jweJSON{protected, b64(wrapped), b64(iv), b64(sealed[:n]), b64(sealed[n:])})
}

func newGCM(key []byte) (cipher.AEAD, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(c)
}

// Open decrypts a response with the TEE's private key. The additional data is
// the received header text, byte for byte.
func Open(priv *ecdh.PrivateKey, raw []byte) ([]byte, error) {
	if len(raw) > MaxJWE {
		return nil, fmt.Errorf("opening response: %d bytes, at most %d", len(raw), MaxJWE)
	}
	var j jweJSON
	if err := json.Unmarshal(raw, &j); err != nil {
		return nil, fmt.Errorf("opening response: %w", err)
	}
	if len(j.Protected) > maxHeader {
		return nil, errors.New("opening response: header too long")
	}
	var parts [5][]byte
	for i, s := range []string{j.Protected, j.EncryptedKey, j.IV, j.Ciphertext, j.Tag} {
		var err error
		if parts[i], err = base64.RawURLEncoding.Strict().DecodeString(s); err != nil {
			return nil, fmt.Errorf("opening response: %w", err)
		}
	}
	epk, err := parseHeader(parts[0])
	if err != nil {
		return nil, fmt.Errorf("opening response: %w", err)
	}
	z, err := priv.ECDH(epk)
	if err != nil {
		return nil, fmt.Errorf("opening response: %w", err)
	}
	kek := concatKDF(z)
	defer clear(kek)
	defer clear(z)
	cek, err := unwrapKey(kek, parts[1])
	if err != nil {
		return nil, fmt.Errorf("opening response: %w", err)
	}
	defer clear(cek)
	if len(cek) != 32 || len(parts[2]) != 12 || len(parts[4]) != 16 {
		return nil, errors.New("opening response: key, iv or tag of a wrong length")
	}
	gcm, err := newGCM(cek)
	if err != nil {
		return nil, fmt.Errorf("opening response: %w", err)
	}
	plain, err := gcm.Open(nil, parts[2], append(parts[3], parts[4]...), []byte(j.Protected))
	if err != nil {
		return nil, errors.New("opening response: authentication failed")
	}
	return plain, nil
}

// parseHeader gives the ephemeral key. Every other member than the known ones
// is an error, "crit" and "zip" among them.
func parseHeader(b []byte) (*ecdh.PublicKey, error) {
	var h map[string]json.RawMessage
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	var alg, enc string
	var epk map[string]string
	for name, v := range h {
		var dst any
		switch name {
		case "alg":
			dst = &alg
		case "enc":
			dst = &enc
		case "epk":
			dst = &epk
		default:
			return nil, fmt.Errorf("header: unknown member %.20q", name)
		}
		if err := json.Unmarshal(v, dst); err != nil {
			return nil, fmt.Errorf("header: %w", err)
		}
	}
	if alg != AlgECDH || enc != encA256GCM || epk["kty"] != "EC" {
		return nil, fmt.Errorf("header: %.20q with %.20q and epk kty %.20q is not supported", alg, enc, epk["kty"])
	}
	x, err := base64.RawURLEncoding.Strict().DecodeString(epk["x"])
	if err != nil {
		return nil, fmt.Errorf("header: epk: %w", err)
	}
	y, err := base64.RawURLEncoding.Strict().DecodeString(epk["y"])
	if err != nil {
		return nil, fmt.Errorf("header: epk: %w", err)
	}
	return ecPublicKey(epk["crv"], x, y)
}
