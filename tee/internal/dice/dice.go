// Package dice reads the firmware identities (FWID) in a device certificate's
// extension 2.23.133.5.4.1, in both of its forms: TCG DiceTcbInfo, and the older
// CompositeDeviceID that also names the device's identity key.
//
// Invariants: bounded by the certificate's size, never panics; canonical DER
// only; a certificate with the extension twice is an error.
//
// Trust zone: trustee and owner.
package dice

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

var (
	oidTCBInfo = asn1.ObjectIdentifier{2, 23, 133, 5, 4, 1}
	oidSHA384  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
)

// ErrNone says that the certificate has no such extension.
var ErrNone = errors.New("no firmware identity (extension 2.23.133.5.4.1)")

const maxFWIDs = 16

// Identity is what the extension says.
type Identity struct {
	// FWIDs are SHA-384 digests, the first layer first.
	FWIDs [][]byte
	// DeviceKey is the identity key's SubjectPublicKeyInfo (CompositeDeviceID
	// only).
	DeviceKey []byte
}

type fwid struct {
	Algorithm asn1.ObjectIdentifier
	Digest    []byte
}

// Of reads the extension of a certificate.
func Of(c *x509.Certificate) (*Identity, error) {
	var value []byte
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidTCBInfo) {
			continue
		}
		if value != nil {
			return nil, errors.New("firmware identity comes twice")
		}
		value = e.Value
	}
	if value == nil {
		return nil, ErrNone
	}
	id, err := parse(value)
	if err != nil {
		return nil, fmt.Errorf("firmware identity: %w", err)
	}
	return id, nil
}

func parse(der []byte) (*Identity, error) {
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &outer); err != nil || len(rest) > 0 {
		return nil, errors.New("not one DER value")
	}
	if outer.Class != asn1.ClassUniversal || outer.Tag != asn1.TagSequence || !outer.IsCompound {
		return nil, errors.New("not a sequence")
	}
	if len(outer.Bytes) > 0 && outer.Bytes[0] == asn1.TagInteger {
		return parseComposite(der)
	}
	return parseTCBInfo(outer.Bytes)
}

func parseComposite(der []byte) (*Identity, error) {
	var v struct {
		Version   int
		DeviceKey asn1.RawValue
		FWID      fwid
	}
	if rest, err := asn1.Unmarshal(der, &v); err != nil || len(rest) > 0 {
		return nil, errors.New("CompositeDeviceID is broken")
	}
	if v.Version != 1 {
		return nil, fmt.Errorf("CompositeDeviceID version %d", v.Version)
	}
	if err := v.FWID.check(); err != nil {
		return nil, err
	}
	return &Identity{FWIDs: [][]byte{v.FWID.Digest}, DeviceKey: v.DeviceKey.FullBytes}, nil
}

// parseTCBInfo reads the fields of DiceTcbInfo, all of them implicitly tagged
// and in rising order; of them only [6] is of interest.
func parseTCBInfo(b []byte) (*Identity, error) {
	id, last := new(Identity), -1
	for len(b) > 0 {
		var f asn1.RawValue
		rest, err := asn1.Unmarshal(b, &f)
		if err != nil {
			return nil, errors.New("DiceTcbInfo is broken")
		}
		if f.Class != asn1.ClassContextSpecific || f.Tag <= last {
			return nil, fmt.Errorf("DiceTcbInfo: field %d out of order", f.Tag)
		}
		last, b = f.Tag, rest
		if f.Tag != 6 {
			continue
		}
		if id.FWIDs, err = parseFWIDs(f.Bytes); err != nil {
			return nil, err
		}
	}
	if len(id.FWIDs) == 0 {
		return nil, errors.New("DiceTcbInfo names no firmware")
	}
	return id, nil
}

func parseFWIDs(b []byte) ([][]byte, error) {
	var out [][]byte
	for len(b) > 0 {
		var f fwid
		rest, err := asn1.Unmarshal(b, &f)
		if err != nil {
			return nil, errors.New("list of firmware identities is broken")
		}
		if err := f.check(); err != nil {
			return nil, err
		}
		if out = append(out, f.Digest); len(out) > maxFWIDs {
			return nil, fmt.Errorf("more than %d firmware identities", maxFWIDs)
		}
		b = rest
	}
	return out, nil
}

func (f *fwid) check() error {
	if !f.Algorithm.Equal(oidSHA384) || len(f.Digest) != 48 {
		return fmt.Errorf("digest of %d bytes by algorithm %s is not SHA-384", len(f.Digest), f.Algorithm)
	}
	return nil
}
