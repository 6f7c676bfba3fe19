// Package se holds what both sides of IBM Secure Execution evidence share: the
// codecs of the published "se" challenge and evidence, the image header's tags and
// the measurement that the ultravisor computes of them.
//
// Attestation of Secure Execution is symmetric: the trustee encrypts a fresh
// measurement key for the machine, the ultravisor answers with an HMAC under it.
// Key and nonce travel to the guest and back, sealed, so that the trustee needs to
// remember nothing.
//
// Subpackages: attester (the guest), verifier, measure (an image's header), setest
// (an ultravisor for tests).
//
// Trust zone: guest and trustee.
package se

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// WireName is the TEE's name in the KBS protocol.
const WireName = "se"

// Sizes, in bytes.
const (
	DigestSize      = 64 // page, address and tweak list digests
	TagSize         = 16
	TagsSize        = 3*DigestSize + TagSize
	CUIDSize        = 16 // configuration unique id
	NonceSize       = 16 // of the attestation request
	KeySize         = 64 // of the measurement
	MeasurementSize = sha512.Size
	UserDataSize    = 64 // the runtime-data hash, padded
	PHKHSize        = 32 // public host key hash
	AdditionalSize  = 2 * PHKHSize
)

// Version is the version of attestation requests, as the claim has it.
const Version = 0x100

// Limits, in bytes.
const (
	MaxChallenge = 64 << 10
	MaxEvidence  = 64 << 10
	maxSealed    = 4 << 10
	maxRequest   = 32 << 10
)

// Tags are what identifies a Secure Execution image: page list digest, address
// list digest, tweak list digest, and the tag over its header.
type Tags struct{ PLD, ALD, TLD, Tag []byte }

// ParseTags takes them apart.
func ParseTags(b []byte) (*Tags, error) {
	if len(b) != TagsSize {
		return nil, fmt.Errorf("image header tags: %d bytes, not %d", len(b), TagsSize)
	}
	return &Tags{b[:64:64], b[64:128:128], b[128:192:192], b[192:]}, nil
}

// Bytes puts them together.
func (t *Tags) Bytes() []byte {
	return append(append(append(append([]byte{}, t.PLD...), t.ALD...), t.TLD...), t.Tag...)
}

// Challenge is the challenge's nonce for TEE "se": a JSON text.
type Challenge struct {
	Request         []byte `json:"request_blob"` // for the ultravisor
	MeasurementSize uint32 `json:"measurement_size"`
	AdditionalSize  uint32 `json:"additional_size"`
	SealedKey       []byte `json:"encr_measurement_key"`
	SealedNonce     []byte `json:"encr_request_nonce"`
	Tags            []byte `json:"image_hdr_tags"`
	// RuntimeDataDigest is put in by the published client on its way to the
	// attester; a trustee sends none.
	RuntimeDataDigest []byte `json:"runtime_data_digest,omitempty"`
}

// Evidence is the primary evidence of TEE "se".
type Evidence struct {
	Measurement []byte `json:"measurement"`
	Additional  []byte `json:"additional_data"`
	UserData    []byte `json:"user_data"`
	CUID        []byte `json:"cuid"`
	SealedKey   []byte `json:"encr_measurement_key"`
	SealedNonce []byte `json:"encr_request_nonce"`
	Tags        []byte `json:"image_hdr_tags"`
}

// ParseChallenge decodes a challenge.
func ParseChallenge(b []byte) (*Challenge, error) {
	c := new(Challenge)
	err := jsonobject.Strict(b, MaxChallenge, c)
	switch {
	case err != nil:
	case len(c.Request) == 0 || len(c.Request) > maxRequest:
		err = fmt.Errorf("request_blob of %d bytes", len(c.Request))
	case c.MeasurementSize != MeasurementSize || c.AdditionalSize != AdditionalSize:
		err = fmt.Errorf("measurement of %d and additional data of %d bytes, only %d and %d are supported", c.MeasurementSize, c.AdditionalSize, MeasurementSize, AdditionalSize)
	case len(c.Tags) != TagsSize:
		err = fmt.Errorf("image_hdr_tags of %d bytes, not %d", len(c.Tags), TagsSize)
	case !sealed(c.SealedKey) || !sealed(c.SealedNonce):
		err = errors.New("sealed key or nonce missing or too long")
	case len(c.RuntimeDataDigest) > sha512.Size:
		err = errors.New("runtime_data_digest too long")
	}
	if err != nil {
		return nil, fmt.Errorf("se challenge: %w", err)
	}
	return c, nil
}

func sealed(b []byte) bool { return len(b) > 0 && len(b) <= maxSealed }

// Parse decodes evidence. An unknown member is an error.
func Parse(b []byte) (*Evidence, error) {
	e := new(Evidence)
	err := jsonobject.Strict(b, MaxEvidence, e)
	if err == nil {
		for _, f := range []struct {
			name string
			b    []byte
			size int
		}{
			{"measurement", e.Measurement, MeasurementSize}, {"additional_data", e.Additional, AdditionalSize}, {"user_data", e.UserData, UserDataSize},
			{"cuid", e.CUID, CUIDSize}, {"image_hdr_tags", e.Tags, TagsSize},
		} {
			if len(f.b) != f.size {
				err = fmt.Errorf("%s of %d bytes, not %d", f.name, len(f.b), f.size)
			}
		}
		if !sealed(e.SealedKey) || !sealed(e.SealedNonce) {
			err = errors.New("sealed key or nonce missing or too long")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("se evidence: %w", err)
	}
	return e, nil
}

// Measure computes what the ultravisor does: HMAC-SHA512 over the image's tags, the
// guest's id, the lengths of what follows, user data, the request's nonce and
// additional data. A nil nonce is none.
func Measure(key, tags, cuid, userData, nonce, additional []byte) []byte {
	h := hmac.New(sha512.New, key)
	h.Write(tags)
	h.Write(cuid)
	lengths := binary.BigEndian.AppendUint32(nil, uint32(len(userData))<<16)
	h.Write(binary.BigEndian.AppendUint32(lengths, uint32(len(additional))))
	h.Write(userData)
	h.Write(nonce)
	h.Write(additional)
	return h.Sum(nil)
}
