package azure

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// AKName is the kid of the vTPM's attestation key among the runtime claims' keys.
const AKName = "HCLAkPub"

const maxKeys = 16

// RuntimeClaims are what the paravisor says, under the hardware's signature.
type RuntimeClaims struct {
	AK *rsa.PublicKey
	// UserData is UserDataSize bytes; nil: an older paravisor, which has none.
	UserData []byte
	// VMConfiguration is the paravisor's word on the VM: console, secure boot, ...
	VMConfiguration map[string]any
}

// JWK is a key of the runtime claims.
type JWK struct {
	KeyID  string   `json:"kid"`
	KeyOps []string `json:"key_ops"`
	Type   string   `json:"kty"`
	E      string   `json:"e"`
	N      string   `json:"n"`
}

// RuntimeDocument is the runtime claims' JSON. Unknown members are the
// paravisor's to add: what is here is under its hash.
type RuntimeDocument struct {
	Keys            []JWK          `json:"keys"`
	VMConfiguration map[string]any `json:"vm-configuration"`
	UserData        string         `json:"user-data"`
}

// ParseRuntimeClaims decodes the claims. The caller has compared their hash.
func ParseRuntimeClaims(b []byte) (*RuntimeClaims, error) {
	c, err := parseRuntimeClaims(b)
	if err != nil {
		return nil, fmt.Errorf("runtime claims: %w", err)
	}
	return c, nil
}

func parseRuntimeClaims(b []byte) (*RuntimeClaims, error) {
	if len(b) > MaxReport {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), MaxReport)
	}
	var d RuntimeDocument
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, err
	}
	if len(d.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys, at most %d", len(d.Keys), maxKeys)
	}
	c := &RuntimeClaims{VMConfiguration: d.VMConfiguration}
	var err error
	if d.UserData != "" {
		if c.UserData, err = hex.DecodeString(d.UserData); err != nil || len(c.UserData) != UserDataSize {
			return nil, fmt.Errorf("user-data: not %d hex digits", 2*UserDataSize)
		}
	}
	for i := range d.Keys {
		if d.Keys[i].KeyID != AKName {
			continue
		}
		if c.AK != nil {
			return nil, errors.New("two keys are named " + AKName)
		}
		if c.AK, err = d.Keys[i].publicKey(); err != nil {
			return nil, fmt.Errorf("%s: %w", AKName, err)
		}
	}
	if c.AK == nil {
		return nil, errors.New("no key is named " + AKName)
	}
	return c, nil
}

// publicKey takes an RSA signing key of a size that verifying can bear.
func (k *JWK) publicKey() (*rsa.PublicKey, error) {
	if k.Type != "RSA" || k.E != "AQAB" || !slices.Equal(k.KeyOps, []string{"sign"}) {
		return nil, errors.New("not an RSA key for signatures with exponent 65537")
	}
	if len(k.N) > 1<<10 {
		return nil, errors.New("modulus too long")
	}
	n, err := base64.RawURLEncoding.Strict().DecodeString(k.N)
	if err != nil {
		return nil, errors.New("modulus is not base64url")
	}
	m := new(big.Int).SetBytes(n)
	if l := m.BitLen(); l < 2048 || l > 4096 || m.Bit(0) == 0 {
		return nil, fmt.Errorf("modulus of %d bits", l)
	}
	return &rsa.PublicKey{N: m, E: 65537}, nil
}

// NewJWK gives the JWK form of an attestation key, for simulators and tests.
func NewJWK(k *rsa.PublicKey) JWK {
	return JWK{KeyID: AKName, KeyOps: []string{"sign"}, Type: "RSA", E: "AQAB", N: base64.RawURLEncoding.EncodeToString(k.N.Bytes())}
}
