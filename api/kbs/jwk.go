package kbs

import (
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// Key management algorithms of the JWE response.
const (
	AlgECDH = "ECDH-ES+A256KW"
	AlgRSA  = "RSA-OAEP-256"
)

// TEEKey is the public key of a TEE: the published JWK subset. Members that it
// does not know are dropped before anything is hashed, as published.
type TEEKey struct {
	kty, crv, alg string
	x, y          string // EC: base64url; RSA: n, e; AKP: pub, ""
	ec            *ecdh.PublicKey
	rsa           *rsa.PublicKey
	mlkem         *mlkem.EncapsulationKey768
}

// NewTEEKey wraps an ECDH public key on P-256, P-384 (an addition) or P-521.
func NewTEEKey(k *ecdh.PublicKey) (*TEEKey, error) {
	crv, size, ok := curveName(k.Curve())
	if !ok {
		return nil, errors.New("TEE key: curve is none of P-256, P-384, P-521")
	}
	p := k.Bytes() // uncompressed point: 4, x, y
	return &TEEKey{
		kty: "EC", crv: crv, alg: AlgECDH, ec: k,
		x: base64.RawURLEncoding.EncodeToString(p[1 : 1+size]),
		y: base64.RawURLEncoding.EncodeToString(p[1+size:]),
	}, nil
}

func curveName(c ecdh.Curve) (name string, size int, ok bool) {
	switch c {
	case ecdh.P256():
		return "P-256", 32, true
	case ecdh.P384():
		return "P-384", 48, true
	case ecdh.P521():
		return "P-521", 66, true
	}
	return "", 0, false
}

// ParseTEEKey reads a JWK.
func ParseTEEKey(raw []byte) (*TEEKey, error) {
	// A map, because the decoder would match struct fields without regard to case.
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("parsing TEE key: %w", err)
	}
	str := func(name string) (string, error) {
		var s string
		v, ok := m[name]
		if !ok {
			return "", fmt.Errorf("parsing TEE key: member %s: missing", name)
		}
		if err := json.Unmarshal(v, &s); err != nil || len(s) > 2048 {
			return "", fmt.Errorf("parsing TEE key: member %s: not a string, or too long", name)
		}
		return s, nil
	}
	k := new(TEEKey)
	var err error
	if k.kty, err = str("kty"); err != nil {
		return nil, err
	}
	if k.alg, err = str("alg"); err != nil {
		return nil, err
	}
	names := [2]string{"x", "y"}
	switch k.kty {
	case "EC":
		if k.crv, err = str("crv"); err != nil {
			return nil, err
		}
	case "RSA":
		names = [2]string{"n", "e"}
	case "AKP":
		names = [2]string{"pub"}
	default:
		return nil, fmt.Errorf("parsing TEE key: kty %.20q is not supported", k.kty)
	}
	if k.x, err = str(names[0]); err != nil {
		return nil, err
	}
	if names[1] == "" {
		return k, nil
	}
	if k.y, err = str(names[1]); err != nil {
		return nil, err
	}
	return k, nil
}

// check decodes the key itself; hashing needs only the text.
func (k *TEEKey) check() error {
	if k.ec != nil || k.rsa != nil || k.mlkem != nil {
		return nil
	}
	x, err := base64.RawURLEncoding.Strict().DecodeString(k.x)
	if err != nil {
		return fmt.Errorf("TEE key: %w", err)
	}
	y, err := base64.RawURLEncoding.Strict().DecodeString(k.y)
	if err != nil {
		return fmt.Errorf("TEE key: %w", err)
	}
	switch {
	case k.kty == "EC" && k.alg == AlgECDH:
		k.ec, err = ecPublicKey(k.crv, x, y)
		return err
	case k.kty == "RSA" && k.alg == AlgRSA:
		n, e := new(big.Int).SetBytes(x), new(big.Int).SetBytes(y)
		if n.BitLen() < 2048 || n.BitLen() > 8192 || n.Bit(0) == 0 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
			return errors.New("TEE key: RSA modulus or exponent out of range")
		}
		k.rsa = &rsa.PublicKey{N: n, E: int(e.Int64())}
		return nil
	case k.kty == "AKP" && k.alg == AlgMLKEM:
		if k.mlkem, err = mlkem.NewEncapsulationKey768(x); err != nil {
			return fmt.Errorf("TEE key: %w", err)
		}
		return nil
	}
	return fmt.Errorf("TEE key: %s with alg %.30q is not supported", k.kty, k.alg)
}

func ecPublicKey(crv string, x, y []byte) (*ecdh.PublicKey, error) {
	var c ecdh.Curve
	switch crv {
	case "P-256":
		c = ecdh.P256()
	case "P-384":
		c = ecdh.P384()
	case "P-521":
		c = ecdh.P521()
	default:
		return nil, fmt.Errorf("TEE key: curve %.20q is not supported", crv)
	}
	if _, size, _ := curveName(c); len(x) != size || len(y) != size {
		return nil, errors.New("TEE key: coordinate of a wrong length")
	}
	p := append([]byte{4}, x...)
	k, err := c.NewPublicKey(append(p, y...))
	if err != nil {
		return nil, fmt.Errorf("TEE key: %w", err)
	}
	return k, nil
}

// Check reports whether responses can be sealed to the key.
func (k *TEEKey) Check() error { return k.check() }

// members gives the JWK as a map.
func (k *TEEKey) members() map[string]any {
	switch k.kty {
	case "AKP":
		return map[string]any{"kty": k.kty, "alg": k.alg, "pub": k.x}
	case "RSA":
		return map[string]any{"kty": k.kty, "alg": k.alg, "n": k.x, "e": k.y}
	}
	return map[string]any{"kty": k.kty, "crv": k.crv, "alg": k.alg, "x": k.x, "y": k.y}
}

// MarshalJSON gives the JWK.
func (k *TEEKey) MarshalJSON() ([]byte, error) { return appendCanonical(nil, k.members()) }
