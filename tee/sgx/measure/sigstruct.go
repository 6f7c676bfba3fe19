package measure

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/cofferproject/coffer/tee/intel/quote"
)

// SigstructSize is the size of an enclave's signature structure, in bytes.
const SigstructSize = 1808

// Sigstruct is what a signer says of an enclave, its signature checked (Intel SDM
// volume 3D, "SIGSTRUCT", and what EINIT demands of it).
type Sigstruct struct {
	MREnclave, MRSigner    [32]byte
	ProductID, SVN         uint16
	FamilyID, ExtProductID [16]byte // zero in an enclave without KSS
	// Flags are ATTRIBUTES.FLAGS, of which EINIT compares the bits of FlagsMask.
	Flags, FlagsMask uint64
}

// A field of the structure: offset and size, in bytes.
type field struct{ at, size int }

func (f field) of(b []byte) []byte { return b[f.at : f.at+f.size] }

// All numbers are little-endian.
var (
	sigHeader       = field{0, 16}
	sigVendor       = field{16, 4}
	sigHeader2      = field{24, 16}
	sigModulus      = field{128, 384}
	sigExponent     = field{512, 4}
	sigSignature    = field{516, 384}
	sigFamilyID     = field{912, 16}
	sigFlags        = field{928, 8}
	sigFlagsMask    = field{944, 8}
	sigEnclaveHash  = field{960, 32}
	sigExtProductID = field{1008, 16}
	sigProductID    = field{1024, 2}
	sigSVN          = field{1026, 2}
	sigQ1           = field{1040, 384}
	sigQ2           = field{1424, 384}

	// What the signature is over.
	sigSigned = []field{{0, 128}, {900, 128}}

	sigReserved = []field{{44, 84}, {910, 2}, {992, 16}, {1028, 12}}
)

const (
	sigHeaderBytes  = "\x06\x00\x00\x00\xe1\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00"
	sigHeader2Bytes = "\x01\x01\x00\x00\x60\x00\x00\x00\x60\x00\x00\x00\x01\x00\x00\x00"
	vendorIntel     = 0x8086
	sigRSA          = 3 // the only public exponent
)

// ParseSigstruct reads a signature structure and checks it as EINIT does: fixed
// fields, reserved bytes, and the signature with both quotients.
func ParseSigstruct(b []byte) (*Sigstruct, error) {
	if len(b) != SigstructSize {
		return nil, fmt.Errorf("sigstruct: %d bytes, not %d", len(b), SigstructSize)
	}
	le := binary.LittleEndian
	if v := le.Uint32(sigVendor.of(b)); v != 0 && v != vendorIntel {
		return nil, fmt.Errorf("sigstruct: VENDOR %#x", v)
	}
	if string(sigHeader.of(b)) != sigHeaderBytes || string(sigHeader2.of(b)) != sigHeader2Bytes {
		return nil, errors.New("sigstruct: HEADER is not that of a signed enclave")
	}
	if e := le.Uint32(sigExponent.of(b)); e != sigRSA {
		return nil, fmt.Errorf("sigstruct: EXPONENT %d, not %d", e, sigRSA)
	}
	for _, f := range sigReserved {
		if !zero(f.of(b)) {
			return nil, fmt.Errorf("sigstruct: reserved bytes at %d", f.at)
		}
	}
	if err := checkSignature(b); err != nil {
		return nil, err
	}
	s := &Sigstruct{
		MREnclave: [32]byte(sigEnclaveHash.of(b)), MRSigner: sha256.Sum256(sigModulus.of(b)),
		ProductID: le.Uint16(sigProductID.of(b)), SVN: le.Uint16(sigSVN.of(b)),
		FamilyID: [16]byte(sigFamilyID.of(b)), ExtProductID: [16]byte(sigExtProductID.of(b)),
		Flags: le.Uint64(sigFlags.of(b)), FlagsMask: le.Uint64(sigFlagsMask.of(b)),
	}
	if s.Flags&s.FlagsMask&quote.FlagInit != 0 {
		return nil, errors.New("sigstruct: ATTRIBUTES demand INIT, which no enclave has before EINIT")
	}
	return s, nil
}

func checkSignature(b []byte) error {
	number := func(f field) *big.Int {
		be := bytes.Clone(f.of(b))
		slices.Reverse(be)
		return new(big.Int).SetBytes(be)
	}
	modulus, signature := number(sigModulus), number(sigSignature)
	if modulus.BitLen() != 8*sigModulus.size || modulus.Bit(0) == 0 {
		return errors.New("sigstruct: MODULUS is not one of 3072 bits")
	}
	h := sha256.New()
	for _, f := range sigSigned {
		h.Write(f.of(b))
	}
	raw := bytes.Clone(sigSignature.of(b))
	slices.Reverse(raw)
	if err := rsa.VerifyPKCS1v15(&rsa.PublicKey{N: modulus, E: sigRSA}, crypto.SHA256, h.Sum(nil), raw); err != nil {
		return errors.New("sigstruct: SIGNATURE is not by MODULUS over these fields")
	}
	// The quotients spare the CPU its divisions: Q1 of S*S by the modulus, Q2 of
	// the remainder times S.
	q1, r := new(big.Int).QuoRem(new(big.Int).Mul(signature, signature), modulus, new(big.Int))
	q2 := new(big.Int).Quo(r.Mul(r, signature), modulus)
	if q1.Cmp(number(sigQ1)) != 0 || q2.Cmp(number(sigQ2)) != 0 {
		return errors.New("sigstruct: Q1 or Q2 is not the signature's")
	}
	return nil
}

// ReportFlags gives ATTRIBUTES.FLAGS as the reports of a running enclave of this
// signature have them: what it pins, INIT, and zero in what it leaves open, which
// is the second result (INIT aside).
func (s *Sigstruct) ReportFlags() (flags, open uint64) {
	return s.Flags&s.FlagsMask | quote.FlagInit, ^s.FlagsMask &^ quote.FlagInit
}
