package intel

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

// SGXType is the platform's kind of memory protection.
type SGXType int

// Values of SGXType.
const (
	Standard SGXType = iota
	Scalable
	ScalableWithIntegrity
)

// PCK is what a PCK certificate says of its platform (Intel SGX PCK Certificate
// and CRL Profile, section 1.3.5).
type PCK struct {
	PPID    [16]byte
	SVN     [16]uint8 // SGX TCB components
	PCESVN  uint16
	CPUSVN  [16]byte
	PCEID   [2]byte
	FMSPC   [6]byte
	SGXType SGXType
	// Only from the Platform CA:
	PIID                          *[16]byte
	Dynamic, CachedKeys, SMT      bool
	HasDynamic, HasCached, HasSMT bool
}

// ExtensionID is the SGX extension of PCK certificates.
var ExtensionID = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

const maxExtension = 2048

type attribute struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

// ParsePCK reads the SGX extension of a PCK certificate.
func ParsePCK(c *x509.Certificate) (*PCK, error) {
	var der []byte
	for _, e := range c.Extensions {
		if e.Id.Equal(ExtensionID) {
			if der != nil {
				return nil, errors.New("SGX extension comes twice")
			}
			der = e.Value
		}
	}
	if der == nil {
		return nil, errors.New("no SGX extension")
	}
	p := new(PCK)
	seen := map[int]bool{}
	err := each(der, ExtensionID, func(id int, v asn1.RawValue) error {
		if seen[id] {
			return errors.New("comes twice")
		}
		seen[id] = true
		switch id {
		case 1:
			return octets(v, p.PPID[:])
		case 2:
			return p.tcb(v.FullBytes)
		case 3:
			return octets(v, p.PCEID[:])
		case 4:
			return octets(v, p.FMSPC[:])
		case 5:
			var e asn1.Enumerated
			if err := exact(v.FullBytes, &e); err != nil {
				return err
			}
			if e < 0 || e > asn1.Enumerated(ScalableWithIntegrity) {
				return fmt.Errorf("SGX type %d", e)
			}
			p.SGXType = SGXType(e)
			return nil
		case 6:
			p.PIID = new([16]byte)
			return octets(v, p.PIID[:])
		case 7:
			return p.configuration(v.FullBytes)
		}
		return nil // what a later profile may add says nothing of what is known
	})
	if err != nil {
		return nil, fmt.Errorf("SGX extension: %w", err)
	}
	for id := 1; id <= 5; id++ {
		if !seen[id] {
			return nil, fmt.Errorf("SGX extension: attribute %d is missing", id)
		}
	}
	return p, nil
}

func (p *PCK) tcb(der []byte) error {
	seen := map[int]bool{}
	err := each(der, append(ExtensionID[:len(ExtensionID):len(ExtensionID)], 2), func(id int, v asn1.RawValue) error {
		if seen[id] {
			return errors.New("comes twice")
		}
		seen[id] = true
		if id == 18 {
			return octets(v, p.CPUSVN[:])
		}
		var n int
		if err := exact(v.FullBytes, &n); err != nil {
			return err
		}
		switch {
		case id >= 1 && id <= 16 && n >= 0 && n <= 0xff:
			p.SVN[id-1] = uint8(n)
		case id == 17 && n >= 0 && n <= 0xffff:
			p.PCESVN = uint16(n)
		default:
			return fmt.Errorf("value %d", n)
		}
		return nil
	})
	if err == nil && len(seen) != 18 {
		err = fmt.Errorf("%d TCB attributes, not 18", len(seen))
	}
	return err
}

func (p *PCK) configuration(der []byte) error {
	return each(der, append(ExtensionID[:len(ExtensionID):len(ExtensionID)], 7), func(id int, v asn1.RawValue) error {
		var b bool
		if err := exact(v.FullBytes, &b); err != nil {
			return err
		}
		switch id {
		case 1:
			p.Dynamic, p.HasDynamic = b, true
		case 2:
			p.CachedKeys, p.HasCached = b, true
		case 3:
			p.SMT, p.HasSMT = b, true
		}
		return nil
	})
}

// each walks a sequence of (id, value), ids directly below prefix.
func each(der []byte, prefix asn1.ObjectIdentifier, f func(int, asn1.RawValue) error) error {
	if len(der) > maxExtension {
		return fmt.Errorf("%d bytes, at most %d", len(der), maxExtension)
	}
	var list []attribute
	if err := exact(der, &list); err != nil {
		return err
	}
	for _, a := range list {
		n := len(prefix)
		if len(a.ID) != n+1 || !a.ID[:n].Equal(prefix) {
			return fmt.Errorf("attribute %s is not below %s", a.ID, prefix)
		}
		if err := f(a.ID[n], a.Value); err != nil {
			return fmt.Errorf("attribute %s: %w", a.ID, err)
		}
	}
	return nil
}

func octets(v asn1.RawValue, out []byte) error {
	var b []byte
	if err := exact(v.FullBytes, &b); err != nil {
		return err
	}
	if len(b) != len(out) {
		return fmt.Errorf("%d bytes, not %d", len(b), len(out))
	}
	copy(out, b)
	return nil
}

func exact(der []byte, out any) error {
	rest, err := asn1.Unmarshal(der, out)
	if err == nil && len(rest) > 0 {
		err = errors.New("data behind the value")
	}
	return err
}
