package tpm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// EKKind is one endorsement key of the TCG EK Credential Profile: where its
// certificate lies and what its template is.
type EKKind struct {
	Name     string
	NVIndex  uint32
	Template tpm2.TPMTPublic
	// HighRange templates let the empty password authorise the key's use; low
	// range ones ask for the policy PolicySecret(endorsement).
	HighRange bool
}

// EKKinds lists the kinds, the cheapest key first: an RSA key takes a TPM up to
// seconds to derive again.
func EKKinds() []EKKind {
	return []EKKind{
		{"ECC P-256", 0x01c0000a, tpm2.ECCEKTemplate, false},
		{"ECC P-256 (high range)", 0x01c00014, eccTemplate(tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, 128, policyBSHA256), true},
		{"ECC P-384 (high range)", 0x01c00016, eccTemplate(tpm2.TPMECCNistP384, tpm2.TPMAlgSHA384, 256, policyBSHA384), true},
		{"RSA 2048", 0x01c00002, tpm2.RSAEKTemplate, false},
		{"RSA 2048 (high range)", 0x01c00012, rsaHighTemplate(), true},
	}
}

// PolicyB of the TCG EK Credential Profile, section B.6.5, by name algorithm.
var (
	policyBSHA256 = mustHex("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0")
	policyBSHA384 = mustHex("b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12")
)

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func aesCFB(bits int) tpm2.TPMTSymDefObject {
	return tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(bits)),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
}

func highAttributes() tpm2.TPMAObject {
	return tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
		UserWithAuth: true, AdminWithPolicy: true, Restricted: true, Decrypt: true,
	}
}

// eccTemplate gives a high-range template: its unique field is empty.
func eccTemplate(c tpm2.TPMECCCurve, name tpm2.TPMIAlgHash, bits int, policy []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: name, ObjectAttributes: highAttributes(),
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: aesCFB(bits), CurveID: c}),
		Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

func rsaHighTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: highAttributes(),
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policyBSHA256},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: aesCFB(128), KeyBits: 2048}),
		Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{}),
	}
}

// EKPublicArea gives the parts of an endorsement key's public area that
// MakeCredential needs, from the key in its certificate: the profile fixes name
// algorithm and symmetric cipher by key type and size.
func EKPublicArea(key any) (*tpm2.TPMTPublic, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		bits, sym, name := k.N.BitLen(), 128, tpm2.TPMAlgSHA256
		switch bits {
		case 2048:
		case 3072, 4096:
			sym, name = 256, tpm2.TPMAlgSHA384
		default:
			return nil, fmt.Errorf("endorsement key: RSA of %d bits is not supported", bits)
		}
		e := uint32(0) // means 65537
		if k.E != 65537 {
			return nil, fmt.Errorf("endorsement key: RSA exponent %d is not supported", k.E)
		}
		return &tpm2.TPMTPublic{
			Type: tpm2.TPMAlgRSA, NameAlg: name,
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: aesCFB(sym), KeyBits: tpm2.TPMKeyBits(bits), Exponent: e}),
			Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()}),
		}, nil
	case *ecdsa.PublicKey:
		return eccEKArea(k)
	}
	return nil, errors.New("endorsement key: neither RSA nor ECC")
}

func eccEKArea(k *ecdsa.PublicKey) (*tpm2.TPMTPublic, error) {
	var curve tpm2.TPMECCCurve
	sym, name := 128, tpm2.TPMAlgSHA256
	switch k.Curve {
	case elliptic.P256():
		curve = tpm2.TPMECCNistP256
	case elliptic.P384():
		curve, sym, name = tpm2.TPMECCNistP384, 256, tpm2.TPMAlgSHA384
	default:
		return nil, errors.New("endorsement key: curve is neither P-256 nor P-384")
	}
	p, err := k.ECDH()
	if err != nil {
		return nil, fmt.Errorf("endorsement key: %w", err)
	}
	b := p.Bytes()[1:]
	return &tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: name,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: aesCFB(sym), CurveID: curve}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: b[:len(b)/2]},
			Y: tpm2.TPM2BECCParameter{Buffer: b[len(b)/2:]},
		}),
	}, nil
}
