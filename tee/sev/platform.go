package sev

import (
	"crypto/ecdh"
	"fmt"
	"slices"
)

// ChainSize is that of a platform's certificates, in bytes.
const ChainSize = 4 * CertificateSize

// maxVendors bounds the file of ASK and ARK, in bytes.
const maxVendors = 16 << 10

// Platform is a secure processor that the chain of its certificates has shown to be
// AMD's. Only VerifyPlatform makes one.
type Platform struct{ pdh *ecdh.PublicKey }

// VerifyPlatform checks a platform's certificates, PDH, PEK, OCA and CEK one after the
// other, as sevctl export writes them, to the ASK and ARK of vendors, which are
// trusted: they have to come from AMD and not from the host.
func VerifyPlatform(chain, vendors []byte) (*Platform, error) {
	if len(chain) != ChainSize {
		return nil, fmt.Errorf("certificates of the platform: %d bytes, PDH, PEK, OCA and CEK have %d", len(chain), ChainSize)
	}
	if len(vendors) > maxVendors {
		return nil, fmt.Errorf("certificates of AMD: more than %d bytes", maxVendors)
	}
	ask, err := parseVendors(vendors)
	if err != nil {
		return nil, fmt.Errorf("certificates of AMD: %w", err)
	}
	p, err := verifyChain(chain, ask)
	if err != nil {
		return nil, fmt.Errorf("certificates of the platform: %w", err)
	}
	return p, nil
}

func verifyChain(chain []byte, ask *vendorCertificate) (*Platform, error) {
	var certs [4]*certificate
	for i, usage := range []uint32{usagePDH, usagePEK, usageOCA, usageCEK} {
		var err error
		if certs[i], err = parseCertificate(chain[i*CertificateSize:][:CertificateSize], usage); err != nil {
			return nil, err
		}
	}
	pdh, pek, oca, cek := certs[0], certs[1], certs[2], certs[3]
	s, err := cek.by(usageASK)
	if err != nil {
		return nil, err
	}
	value := slices.Clone(s.value[:ask.key.Size()])
	slices.Reverse(value)
	if err := ask.verify(s.algorithm, cek.raw[:atSignature], value); err != nil {
		return nil, fmt.Errorf("CEK: signature by ASK: %w", err)
	}
	for _, link := range []struct{ c, by *certificate }{{oca, oca}, {pek, oca}, {pek, cek}, {pdh, pek}} {
		if err := link.c.signedBy(link.by); err != nil {
			return nil, err
		}
	}
	key, err := pdh.key.ECDH()
	if err != nil {
		return nil, fmt.Errorf("PDH: %w", err)
	}
	return &Platform{key}, nil
}
