package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/cca"
)

// Sizes of the platform's fields, in bytes.
const (
	ImplementationIDSize = 32
	InstanceIDSize       = 33 // EAT UEID of type RAND: 0x01, then 32 bytes
)

// REMs is the number of realm extensible measurements.
const REMs = 4

// Component is a measured piece of the platform's firmware.
type Component struct {
	Type        string `cbor:"1,keyasint,omitempty"`
	Measurement []byte `cbor:"2,keyasint"`
	Version     string `cbor:"4,keyasint,omitempty"`
	SignerID    []byte `cbor:"5,keyasint"`
	// Hash names the measurement's algorithm; "" is the platform's.
	Hash string `cbor:"6,keyasint,omitempty"`
}

// Platform is the claims of a platform token.
type Platform struct {
	Profile          string      `cbor:"265,keyasint"`
	Challenge        []byte      `cbor:"10,keyasint"`
	ImplementationID []byte      `cbor:"2396,keyasint"`
	InstanceID       []byte      `cbor:"256,keyasint"`
	Config           []byte      `cbor:"2401,keyasint"`
	Lifecycle        *uint16     `cbor:"2395,keyasint"`
	Components       []Component `cbor:"2399,keyasint"`
	Service          string      `cbor:"2400,keyasint,omitempty"`
	Hash             string      `cbor:"2402,keyasint"`
}

// Realm is the claims of a realm token.
type Realm struct {
	Profile       string   `cbor:"265,keyasint,omitempty"`
	Challenge     []byte   `cbor:"10,keyasint"`
	RPV           []byte   `cbor:"44235,keyasint"`
	RIM           []byte   `cbor:"44238,keyasint"`
	REM           [][]byte `cbor:"44239,keyasint"`
	Hash          string   `cbor:"44236,keyasint"`
	PublicKey     []byte   `cbor:"44237,keyasint"`
	PublicKeyHash string   `cbor:"44240,keyasint"`

	rak *ecdsa.PublicKey
}

// hashSizes are the hashes a token may name (IANA hash function text names).
var hashSizes = map[string]int{"sha-256": 32, "sha-384": 48, "sha-512": 64}

func (p *Platform) decode(b []byte) error {
	if err := claims.Unmarshal(b, p); err != nil {
		return err
	}
	_, known := hashSizes[p.Hash]
	switch {
	case p.Profile != ProfileSSD && p.Profile != Profile2023:
		return fmt.Errorf("unknown profile %.80q", p.Profile)
	case len(p.Challenge) != 32 && len(p.Challenge) != 48 && len(p.Challenge) != 64:
		return fmt.Errorf("challenge of %d bytes", len(p.Challenge))
	case len(p.ImplementationID) != ImplementationIDSize:
		return fmt.Errorf("implementation id of %d bytes, not %d", len(p.ImplementationID), ImplementationIDSize)
	case len(p.InstanceID) != InstanceIDSize || p.InstanceID[0] != 1:
		return errors.New("instance id is no UEID of type RAND")
	case p.Lifecycle == nil:
		return errors.New("no lifecycle")
	case len(p.Config) == 0 || len(p.Config) > maxConfig:
		return fmt.Errorf("configuration of %d bytes", len(p.Config))
	case len(p.Components) == 0 || len(p.Components) > MaxComponents:
		return fmt.Errorf("%d software components, at least 1 and at most %d", len(p.Components), MaxComponents)
	case len(p.Service) > maxText:
		return errors.New("verification service: too long")
	case !known:
		return fmt.Errorf("unknown hash algorithm %.20q", p.Hash)
	}
	for i := range p.Components {
		if err := p.Components[i].check(); err != nil {
			return fmt.Errorf("software component %d: %w", i, err)
		}
	}
	return nil
}

func (c *Component) check() error {
	_, known := hashSizes[c.Hash]
	switch {
	case len(c.Type) > maxText || len(c.Version) > maxText:
		return errors.New("type or version too long")
	case !isMeasurement(c.Measurement):
		return fmt.Errorf("measurement of %d bytes", len(c.Measurement))
	case !isMeasurement(c.SignerID):
		return fmt.Errorf("signer id of %d bytes", len(c.SignerID))
	case c.Hash != "" && !known:
		return fmt.Errorf("unknown hash algorithm %.20q", c.Hash)
	}
	return nil
}

func isMeasurement(b []byte) bool { return len(b) == 32 || len(b) == 48 || len(b) == 64 }

func (r *Realm) decode(b []byte) error {
	if err := claims.Unmarshal(b, r); err != nil {
		return err
	}
	// A digest shorter than its slot may come in the slot's full size, padded
	// with zeros: this is how the monitor keeps SHA-256 values.
	_, known := hashSizes[r.Hash]
	_, keyKnown := hashSizes[r.PublicKeyHash]
	switch {
	case r.Profile != "" && r.Profile != RealmProfile2023:
		return fmt.Errorf("unknown profile %.80q", r.Profile)
	case len(r.Challenge) != cca.ChallengeSize:
		return fmt.Errorf("challenge of %d bytes, not %d", len(r.Challenge), cca.ChallengeSize)
	case len(r.RPV) != cca.RPVSize:
		return fmt.Errorf("personalization value of %d bytes, not %d", len(r.RPV), cca.RPVSize)
	case !known || !keyKnown:
		return fmt.Errorf("unknown hash algorithm %.20q or %.20q", r.Hash, r.PublicKeyHash)
	case !isMeasurement(r.RIM):
		return fmt.Errorf("initial measurement of %d bytes", len(r.RIM))
	case len(r.REM) != REMs:
		return fmt.Errorf("%d extensible measurements, not %d", len(r.REM), REMs)
	case len(r.PublicKey) > maxKey:
		return errors.New("public key too long")
	}
	for i, m := range r.REM {
		if !isMeasurement(m) {
			return fmt.Errorf("extensible measurement %d of %d bytes", i, len(m))
		}
	}
	var err error
	if r.Profile == "" {
		r.rak, err = pointKey(r.PublicKey)
	} else {
		r.rak, err = coseKey(r.PublicKey)
	}
	return err
}

// pointKey reads an uncompressed point (SEC 1).
func pointKey(b []byte) (*ecdsa.PublicKey, error) {
	k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P384(), b)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return k, nil
}

type coseEC2 struct {
	Type  int64  `cbor:"1,keyasint"`
	KeyID []byte `cbor:"2,keyasint,omitempty"`
	Alg   *int64 `cbor:"3,keyasint,omitempty"`
	Ops   []int  `cbor:"4,keyasint,omitempty"`
	Curve int64  `cbor:"-1,keyasint"`
	X     []byte `cbor:"-2,keyasint"`
	Y     []byte `cbor:"-3,keyasint"`
}

// coseKey reads a COSE_Key (RFC 9052, section 7): EC2 on P-384.
func coseKey(b []byte) (*ecdsa.PublicKey, error) {
	var k coseEC2
	if err := decoder.Unmarshal(b, &k); err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if k.Type != 2 || k.Curve != 2 || len(k.X) != 48 || len(k.Y) != 48 || k.Alg != nil && *k.Alg != AlgES384 {
		return nil, errors.New("public key: not an EC2 key on P-384")
	}
	return pointKey(append(append([]byte{4}, k.X...), k.Y...))
}
