package verifier

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/cca/token"
	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// Limits of the stores.
const (
	maxStore   = 8 << 20
	maxEntries = 10_000
)

// TrustAnchor is a platform's attestation key (CPAK) as its maker endorses it.
type TrustAnchor struct {
	Key              *ecdsa.PublicKey
	ImplementationID []byte
	InstanceID       []byte
}

// Reference is one good state of the platforms of one implementation.
type Reference struct {
	ImplementationID []byte
	// Config is the platform configuration.
	Config     []byte
	Components []ReferenceComponent
}

// ReferenceComponent is one piece of firmware; an empty Type or Version matches any.
type ReferenceComponent struct {
	Type, Version         string
	Measurement, SignerID []byte
}

// RealmReference is one good state of a realm.
type RealmReference struct {
	RIM []byte
	// REM and RPV are compared where the reference has them.
	REM [][]byte
	RPV []byte
}

// References is what the reference value store holds.
type References struct {
	Platforms []Reference
	Realms    []RealmReference
}

// hexBytes is a byte string; in JSON hex.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) error {
	out := make([]byte, hex.DecodedLen(len(b)))
	if _, err := hex.Decode(out, b); err != nil {
		return fmt.Errorf("not hex: %w", err)
	}
	*h = out
	return nil
}

type anchorJSON struct {
	Key              jwk      `json:"pkey"`
	ImplementationID hexBytes `json:"implementation-id"`
	InstanceID       hexBytes `json:"instance-id"`
}

type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
	Kid string `json:"kid,omitempty"`
	Alg string `json:"alg,omitempty"`
	Use string `json:"use,omitempty"`
}

type referencesJSON struct {
	Platform []struct {
		ImplementationID hexBytes        `json:"implementation-id"`
		Components       []componentJSON `json:"sw-components"`
		Config           hexBytes        `json:"platform-configuration"`
	} `json:"platform"`
	Realm []struct {
		RIM     hexBytes   `json:"initial-measurement"`
		KeyHash string     `json:"rak-hash-algorithm,omitempty"`
		REM     []hexBytes `json:"extensible-measurements,omitempty"`
		RPV     hexBytes   `json:"personalization-value,omitempty"`
	} `json:"realm"`
}

type componentJSON struct {
	Measurement hexBytes `json:"measurement-value"`
	SignerID    hexBytes `json:"signer-id"`
	Type        string   `json:"component-type,omitempty"`
	Version     string   `json:"version,omitempty"`
	Hash        string   `json:"hash-algo-id,omitempty"`
}

// ParseTrustAnchors reads the published trust anchor store: a JSON list of
// pkey (JWK), implementation-id and instance-id (hex).
func ParseTrustAnchors(b []byte) ([]TrustAnchor, error) {
	var list []anchorJSON
	if err := jsonobject.Strict(b, maxStore, &list); err != nil {
		return nil, fmt.Errorf("cca trust anchors: %w", err)
	}
	if len(list) > maxEntries {
		return nil, fmt.Errorf("cca trust anchors: %d entries, at most %d", len(list), maxEntries)
	}
	out := make([]TrustAnchor, 0, len(list))
	for i, a := range list {
		key, err := a.Key.key()
		switch {
		case err != nil:
			return nil, fmt.Errorf("cca trust anchors: [%d]: pkey: %w", i, err)
		case len(a.ImplementationID) != token.ImplementationIDSize || len(a.InstanceID) != token.InstanceIDSize:
			return nil, fmt.Errorf("cca trust anchors: [%d]: implementation-id or instance-id has another length", i)
		}
		out = append(out, TrustAnchor{key, a.ImplementationID, a.InstanceID})
	}
	return out, nil
}

func (k *jwk) key() (*ecdsa.PublicKey, error) {
	if k.Kty != "EC" || k.Crv != "P-384" {
		return nil, fmt.Errorf("key type %.20q on curve %.20q, only EC on P-384 is supported", k.Kty, k.Crv)
	}
	x, err := base64.RawURLEncoding.DecodeString(k.X)
	if err != nil {
		return nil, fmt.Errorf("x: %w", err)
	}
	y, err := base64.RawURLEncoding.DecodeString(k.Y)
	if err != nil {
		return nil, fmt.Errorf("y: %w", err)
	}
	if len(x) != 48 || len(y) != 48 {
		return nil, errors.New("coordinates are not 48 bytes each")
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P384(), append(append([]byte{4}, x...), y...))
}

// ParseReferences reads the published reference value store.
func ParseReferences(b []byte) (*References, error) {
	var w referencesJSON
	if err := jsonobject.Strict(b, maxStore, &w); err != nil {
		return nil, fmt.Errorf("cca reference values: %w", err)
	}
	if len(w.Platform) > maxEntries || len(w.Realm) > maxEntries {
		return nil, fmt.Errorf("cca reference values: more than %d entries", maxEntries)
	}
	out := new(References)
	for i, p := range w.Platform {
		if len(p.ImplementationID) != token.ImplementationIDSize || len(p.Components) == 0 || len(p.Components) > token.MaxComponents || len(p.Config) == 0 {
			return nil, fmt.Errorf("cca reference values: platform[%d]: incomplete", i)
		}
		r := Reference{ImplementationID: p.ImplementationID, Config: p.Config}
		for _, c := range p.Components {
			if len(c.Measurement) < 32 || len(c.SignerID) < 32 {
				return nil, fmt.Errorf("cca reference values: platform[%d]: a component without measurement or signer", i)
			}
			r.Components = append(r.Components, ReferenceComponent{c.Type, c.Version, c.Measurement, c.SignerID})
		}
		out.Platforms = append(out.Platforms, r)
	}
	for i, p := range w.Realm {
		if len(p.RIM) < 32 || len(p.REM) != 0 && len(p.REM) != token.REMs {
			return nil, fmt.Errorf("cca reference values: realm[%d]: incomplete", i)
		}
		r := RealmReference{RIM: p.RIM, RPV: p.RPV}
		for _, m := range p.REM {
			r.REM = append(r.REM, m)
		}
		out.Realms = append(out.Realms, r)
	}
	return out, nil
}

// match says how a platform's components differ from a reference; "" is not at
// all. Every component must be expected, and every expected one there.
func (r *Reference) match(p *token.Platform) (claim, measured, expected string) {
	if !bytes.Equal(r.Config, p.Config) {
		return "platform configuration", hex.EncodeToString(p.Config), hex.EncodeToString(r.Config)
	}
	used := make([]bool, len(r.Components))
next:
	for _, c := range p.Components {
		near := "no component of this type"
		for i, want := range r.Components {
			if used[i] || want.Type != "" && want.Type != c.Type {
				continue
			}
			if bytes.Equal(want.Measurement, c.Measurement) && bytes.Equal(want.SignerID, c.SignerID) && (want.Version == "" || want.Version == c.Version) {
				used[i] = true
				continue next
			}
			near = fmt.Sprintf("%x signed by %x %s", want.Measurement, want.SignerID, want.Version)
		}
		return fmt.Sprintf("software component %.40q", c.Type), fmt.Sprintf("%x signed by %x %.40s", c.Measurement, c.SignerID, c.Version), near
	}
	for i, u := range used {
		if !u {
			return fmt.Sprintf("software component %.40q", r.Components[i].Type), "none", hex.EncodeToString(r.Components[i].Measurement)
		}
	}
	return "", "", ""
}

// match says whether a realm is in the state of a reference.
func (r *RealmReference) match(t *token.Realm) bool {
	if !bytes.Equal(r.RIM, t.RIM) || len(r.RPV) > 0 && !bytes.Equal(r.RPV, t.RPV) {
		return false
	}
	for i, m := range r.REM {
		if !bytes.Equal(m, t.REM[i]) {
			return false
		}
	}
	return true
}
