// Package token reads and checks the CBOR form of Arm CCA attestation tokens: a
// collection of two COSE_Sign1 messages (RFC 9052), the platform token signed
// with the CCA platform attestation key (CPAK) and the realm token signed with
// the realm attestation key (RAK), which the platform token's challenge binds.
// It implements the attestation chapter of the RMM specification (Arm DEN0137)
// with the profile "http://arm.com/CCA-SSD/1.0.0" and the one that followed it.
//
// Invariants: definite lengths, bounded depth and counts, no duplicate labels,
// no bytes behind an item; claims have the sizes that the specification gives.
//
// Trust zone: trustee, owner and simulator; the guest carries tokens unread.
package token

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/cofferproject/coffer/tee/cca"
)

// Profiles of platform and realm tokens.
const (
	// ProfileSSD is the first published profile: the realm token has none, and
	// the realm's key is a bare point.
	ProfileSSD = "http://arm.com/CCA-SSD/1.0.0"
	// Profile2023 and RealmProfile2023: the realm's key is a COSE_Key.
	Profile2023      = "tag:arm.com,2023:cca_platform#1.0.0"
	RealmProfile2023 = "tag:arm.com,2023:realm#1.0.0"
)

// TagCollection is the CBOR tag of a token collection.
const TagCollection = 399

// Limits of a token.
const (
	MaxComponents = 64
	maxText       = 512
	maxConfig     = 4096
	maxKey        = 512
)

// Token is a decoded collection.
type Token struct {
	Platform Platform
	Realm    Realm

	platform, realm *sign1
}

type collection struct {
	Platform []byte `cbor:"44234,keyasint"`
	Realm    []byte `cbor:"44241,keyasint"`
}

// decoder reads the frame, where every member is known; claims reads payloads,
// where the published codec passes over claims that it does not know.
var (
	decoder = mode(cbor.ExtraDecErrorUnknownField)
	claims  = mode(cbor.ExtraDecErrorNone)
)

func mode(extra cbor.ExtraDecErrorCond) cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsAllowed,
		MaxNestedLevels:   8,
		MaxArrayElements:  256,
		MaxMapPairs:       64,
		IntDec:            cbor.IntDecConvertSignedOrFail,
		ExtraReturnErrors: extra,
		UTF8:              cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return m
}

// Parse decodes a token collection. Nothing in it is verified yet.
func Parse(b []byte) (*Token, error) {
	if len(b) > cca.MaxToken {
		return nil, fmt.Errorf("cca token: %d bytes, at most %d", len(b), cca.MaxToken)
	}
	var tag cbor.RawTag
	if err := decoder.Unmarshal(b, &tag); err != nil {
		return nil, fmt.Errorf("cca token: %w", err)
	}
	if tag.Number != TagCollection {
		return nil, fmt.Errorf("cca token: tag %d, not %d", tag.Number, TagCollection)
	}
	var c collection
	if err := decoder.Unmarshal(tag.Content, &c); err != nil {
		return nil, fmt.Errorf("cca token: collection: %w", err)
	}
	if len(c.Platform) == 0 || len(c.Realm) == 0 {
		return nil, errors.New("cca token: platform or realm token missing")
	}
	t := new(Token)
	var err error
	if t.platform, err = parseSign1(c.Platform); err != nil {
		return nil, fmt.Errorf("cca platform token: %w", err)
	}
	if t.realm, err = parseSign1(c.Realm); err != nil {
		return nil, fmt.Errorf("cca realm token: %w", err)
	}
	if err := t.Platform.decode(t.platform.payload); err != nil {
		return nil, fmt.Errorf("cca platform token: %w", err)
	}
	if err := t.Realm.decode(t.realm.payload); err != nil {
		return nil, fmt.Errorf("cca realm token: %w", err)
	}
	return t, nil
}
