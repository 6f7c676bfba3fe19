package measure

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/cofferproject/coffer/tee/intel/quote"
)

// Signing is what a signer says of an enclave beside its measurement.
type Signing struct {
	ProductID, SVN         uint16
	FamilyID, ExtProductID [16]byte // need KSS
	// KSS lets the enclave have a CONFIGID, in which the digest of initdata is.
	KSS bool
	// AllowDebug leaves it to the host whether the enclave is one under debug, into
	// which he can look: for tries alone.
	AllowDebug bool
	// Date is when it was signed; its day counts, in UTC.
	Date time.Time
}

// More fields of the structure, which only a signer says anything in.
var (
	sigDate     = field{20, 4}
	sigMiscMask = field{904, 4}
	sigXFRM     = field{936, 8}
	sigXFRMMask = field{952, 8}
)

const (
	xfrmLegacy = 3 // x87 and SSE: what every enclave must have
	// xfrmOpen are states that the processor may have or lack: AVX and AVX-512.
	xfrmOpen = 0xE4
)

// Sign makes the signature structure of an enclave: 64-bit, with no miscellaneous
// data, the debug attribute demanded to be off unless s says otherwise. The key is RSA
// of 3072 bits with the public exponent 3, as EINIT demands (openssl genpkey -algorithm
// RSA -pkeyopt rsa_keygen_bits:3072 -pkeyopt rsa_keygen_pubexp:3).
func Sign(mrenclave [32]byte, s *Signing, key crypto.Signer) ([]byte, error) {
	pub, ok := key.Public().(*rsa.PublicKey)
	if !ok || pub.N.BitLen() != 8*sigModulus.size || pub.E != sigRSA {
		return nil, fmt.Errorf("sigstruct: the key is not RSA of %d bits with exponent %d", 8*sigModulus.size, sigRSA)
	}
	if (s.FamilyID != [16]byte{} || s.ExtProductID != [16]byte{}) && !s.KSS {
		return nil, errors.New("sigstruct: a family or extended product id needs KSS")
	}
	date, err := bcd(s.Date)
	if err != nil {
		return nil, err
	}
	flags, mask := quote.FlagMode64, ^uint64(0)
	if s.KSS {
		flags |= quote.FlagKSS
	}
	if s.AllowDebug {
		mask &^= quote.FlagDebug
	}
	le := binary.LittleEndian
	b := make([]byte, SigstructSize)
	copy(sigHeader.of(b), sigHeaderBytes)
	copy(sigHeader2.of(b), sigHeader2Bytes)
	le.PutUint32(sigDate.of(b), date)
	le.PutUint32(sigExponent.of(b), sigRSA)
	le.PutUint32(sigMiscMask.of(b), ^uint32(0))
	copy(sigFamilyID.of(b), s.FamilyID[:])
	le.PutUint64(sigFlags.of(b), flags)
	le.PutUint64(sigXFRM.of(b), xfrmLegacy)
	le.PutUint64(sigFlagsMask.of(b), mask)
	le.PutUint64(sigXFRMMask.of(b), ^uint64(xfrmOpen))
	copy(sigEnclaveHash.of(b), mrenclave[:])
	copy(sigExtProductID.of(b), s.ExtProductID[:])
	le.PutUint16(sigProductID.of(b), s.ProductID)
	le.PutUint16(sigSVN.of(b), s.SVN)
	putNumber(sigModulus.of(b), pub.N)

	h := sha256.New()
	for _, f := range sigSigned {
		h.Write(f.of(b))
	}
	raw, err := key.Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sigstruct: signing: %w", err)
	}
	signature := new(big.Int).SetBytes(raw)
	q1, r := new(big.Int).QuoRem(new(big.Int).Mul(signature, signature), pub.N, new(big.Int))
	q2 := new(big.Int).Quo(r.Mul(r, signature), pub.N)
	putNumber(sigSignature.of(b), signature)
	putNumber(sigQ1.of(b), q1)
	putNumber(sigQ2.of(b), q2)
	if _, err := ParseSigstruct(b); err != nil {
		return nil, fmt.Errorf("what was signed does not stand EINIT's checks: %w", err)
	}
	return b, nil
}

// putNumber writes a number, little-endian.
func putNumber(to []byte, n *big.Int) {
	be := bytes.Clone(n.FillBytes(to))
	slices.Reverse(be)
	copy(to, be)
}

// bcd gives a day as the structure has it: eight decimal digits, one in four bits.
func bcd(at time.Time) (uint32, error) {
	at = at.UTC()
	if at.Year() < 2000 || at.Year() > 9999 {
		return 0, fmt.Errorf("sigstruct: date %s", at.Format(time.DateOnly))
	}
	var n uint32
	for _, d := range at.Format("20060102") {
		n = n<<4 | uint32(d-'0')
	}
	return n, nil
}
