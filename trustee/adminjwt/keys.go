package adminjwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // SHA-256 of ES256, RS256 and PS256
	_ "crypto/sha512" // the others
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

const maxKeys = 64 // of one set

// ParsePEM reads one public key: EC on P-256 or P-384, Ed25519, RSA of at least
// 2048 bits.
func ParsePEM(b []byte) (*Key, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("not a PUBLIC KEY in PEM")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return &Key{Public: pub}, usable(pub)
}

func usable(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return errors.New("curve is neither P-256 nor P-384")
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 || k.E < 3 {
			return fmt.Errorf("RSA key of %d bits", n)
		}
		return nil
	}
	return fmt.Errorf("key of type %T", pub)
}

type jwk struct {
	Kty, Crv, Alg, Kid, Use, X, Y, N, E string
}

// ParseJWKS reads a key set, every key of which must be usable.
func ParseJWKS(b []byte) ([]Key, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) == 0 || len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys", len(set.Keys))
	}
	var out []Key
	for i := range set.Keys {
		pub, err := set.Keys[i].public()
		if err == nil {
			err = usable(pub)
		}
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		out = append(out, Key{pub, set.Keys[i].Kid, set.Keys[i].Alg})
	}
	return out, nil
}

func (j *jwk) public() (crypto.PublicKey, error) {
	if j.Use != "" && j.Use != "sig" {
		return nil, fmt.Errorf("use %.20q", j.Use)
	}
	member := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			return nil
		}
		return b
	}
	switch j.Kty + " " + j.Crv {
	case "EC P-256", "EC P-384":
		c := elliptic.P256()
		if j.Crv == "P-384" {
			c = elliptic.P384()
		}
		x, y := member(j.X), member(j.Y)
		if size := (c.Params().BitSize + 7) / 8; len(x) != size || len(y) != size {
			return nil, errors.New("coordinate of a wrong length")
		}
		return ecdsa.ParseUncompressedPublicKey(c, append(append([]byte{4}, x...), y...))
	case "OKP Ed25519":
		if x := member(j.X); len(x) == ed25519.PublicKeySize {
			return ed25519.PublicKey(x), nil
		}
	case "RSA ":
		e := new(big.Int).SetBytes(member(j.E))
		if e.IsInt64() && e.Int64() <= 1<<31-1 {
			return &rsa.PublicKey{N: new(big.Int).SetBytes(member(j.N)), E: int(e.Int64())}, nil
		}
	}
	return nil, fmt.Errorf("kty %.20q with crv %.20q is not supported, or malformed", j.Kty, j.Crv)
}

// verify checks a JWS signature; an algorithm that does not fit the key does not.
func verify(pub crypto.PublicKey, alg string, signed, sig []byte) bool {
	var hash crypto.Hash
	switch alg {
	case "ES256", "RS256", "PS256":
		hash = crypto.SHA256
	case "ES384", "RS384", "PS384":
		hash = crypto.SHA384
	case "RS512", "PS512":
		hash = crypto.SHA512
	case "EdDSA":
		k, ok := pub.(ed25519.PublicKey)
		return ok && ed25519.Verify(k, signed, sig)
	default:
		return false
	}
	h := hash.New()
	h.Write(signed)
	sum := h.Sum(nil)
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		size := (k.Curve.Params().BitSize + 7) / 8
		if fits := alg == "ES256" && k.Curve == elliptic.P256() || alg == "ES384" && k.Curve == elliptic.P384(); !fits || len(sig) != 2*size {
			return false
		}
		return ecdsa.Verify(k, sum, new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:]))
	case *rsa.PublicKey:
		switch alg[0] {
		case 'R':
			return rsa.VerifyPKCS1v15(k, hash, sum, sig) == nil
		case 'P':
			return rsa.VerifyPSS(k, hash, sum, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
	}
	return false
}
