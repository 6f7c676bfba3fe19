// Package nitro is the codec of AWS Nitro evidence: the attestation document of
// a Nitro Enclave (NSM) or of an EC2 instance with NitroTPM. SPEC.md is the
// format.
//
// Subpackages are split by trust step: nsm speaks to the security module,
// attester gets evidence, verifier checks signatures against named roots, measure
// computes what an image will measure, sim plays the module for coffer-simhw.
//
// Invariants: bounded, never panics; nothing here decides.
//
// Trust zone: guest and trustee.
package nitro

import (
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// WireName is the TEE's name in the KBS protocol.
const WireName = "nitro"

// Registers (PCR).
const (
	PCRImage     = 0 // kernel, command line and all ramdisks
	PCRBoot      = 1 // kernel, command line and first ramdisk
	PCRApp       = 2 // the other ramdisks
	PCRRole      = 3 // IAM role of the parent instance
	PCRInstance  = 4 // id of the parent instance
	PCRSigner    = 8 // of the image's signature
	PCRInitdata  = 16
	PCRTPM       = 8 // initdata in NitroTPM's PCRs
	Registers    = 32
	firstOfGuest = 16
)

// PCRSize is the size of a register in bytes (SHA-384).
const PCRSize = sha512.Size384

// UserDataSize is the size of a document's user data: report data, truncated or
// padded.
const UserDataSize = 64

// Limits of evidence.
const (
	MaxEvidence = 64 << 10 // bytes of JSON
	MaxDocument = 32 << 10 // bytes
	maxNote     = 1 << 10
)

// Evidence is the primary evidence of TEE "nitro".
type Evidence struct {
	// Document is the COSE_Sign1 that the module or NitroTPM gave.
	Document []byte `json:"document"`
	// Simulation says what is not real.
	Simulation string `json:"simulation,omitempty"`
}

// Parse decodes evidence. An unknown member is an error.
func Parse(b []byte) (*Evidence, error) {
	e, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("nitro evidence: %w", err)
	}
	return e, nil
}

func parse(b []byte) (*Evidence, error) {
	m, err := jsonobject.Members(b, MaxEvidence)
	if err != nil {
		return nil, err
	}
	if err := jsonobject.Only(m, "document", "simulation"); err != nil {
		return nil, err
	}
	text, err := jsonobject.Required[string](m, "document")
	if err != nil {
		return nil, err
	}
	e := new(Evidence)
	if e.Document, err = base64.StdEncoding.Strict().DecodeString(text); err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("document: not base64")
	}
	if len(e.Document) == 0 || len(e.Document) > MaxDocument {
		return nil, fmt.Errorf("document: %d bytes, at least 1 and at most %d", len(e.Document), MaxDocument)
	}
	if e.Simulation, err = jsonobject.Optional[string](m, "simulation"); err != nil {
		return nil, err
	}
	if len(e.Simulation) > maxNote || strings.ContainsAny(e.Simulation, "\r\n") {
		return nil, errors.New("simulation: too long or of several lines")
	}
	return e, nil
}

// Extend gives what a register holds after an extend.
func Extend(old, digest []byte) []byte {
	h := sha512.New384()
	h.Write(old)
	h.Write(digest)
	return h.Sum(nil)
}

// InitdataPCR gives what the initdata register holds: one extend of zero with
// the document's SHA-384, or with the fixed digest where there is no document.
func InitdataPCR(plain []byte) []byte {
	digest := NoInitdata()
	if plain != nil {
		sum := sha512.Sum384(plain)
		digest = sum[:]
	}
	return Extend(make([]byte, PCRSize), digest)
}

// NoInitdata is what the register is extended with where there is no document.
func NoInitdata() []byte {
	d := initdata.NoneDigest()
	return initdata.Fit(d[:], PCRSize)
}

// OfGuest says whether a register of an enclave is the guest's to extend; the
// others are locked before it starts.
func OfGuest(register int) bool { return register >= firstOfGuest && register < Registers }
