// Package tpm holds what both sides of TPM 2.0 evidence share: the evidence
// codec (published "tpm" format plus additive members), the register numbers
// and the public areas of endorsement keys (design.md section 4, rule TPM).
//
// Subpackages are split by trust step: attester gets evidence from a device,
// verifier checks signatures against named roots, appraise compares with
// reference values, sim is the attester for software TPMs (coffer-guest-sim
// alone).
//
// Invariants: every decoder is bounded and never panics; nothing here decides.
//
// Trust zone: guest and trustee.
package tpm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// WireName is the TEE's name in the KBS protocol.
const WireName = "tpm"

// PCRCount is the number of registers that evidence lists.
const PCRCount = 24

// QualifyingSize is the size of a quote's qualifying data, in bytes: report
// data truncated or padded.
const QualifyingSize = 32

// Limits of evidence, in bytes.
const (
	MaxEvidence = 4 << 20
	MaxEventLog = 1 << 20
	MaxEntries  = 64 << 10
	maxField    = 8 << 10
	maxNote     = 1 << 10
)

// Evidence is the primary evidence of TEE "tpm".
type Evidence struct {
	Quote Quote `json:"tpm_quote"`
	// AKPublic is the attestation key as SubjectPublicKeyInfo, DER.
	AKPublic []byte `json:"ak_public"`
	// AKArea is the attestation key's TPMT_PUBLIC (addition); the key's name
	// and attributes come from here.
	AKArea []byte `json:"ak_tpmt_public,omitempty"`
	// EventLog is the firmware's event log, crypto-agile format (addition).
	EventLog []byte `json:"event_log,omitempty"`
	// Entries are the attestation agent's entries for PCR 15, without a header
	// (addition; tee/aael/SPEC.md).
	Entries []byte `json:"aael,omitempty"`
	// CredentialMAC is HMAC-SHA256(s, runtime-data hash), where s came out of
	// ActivateCredential (addition).
	CredentialMAC []byte `json:"credential_hmac,omitempty"`
	// Simulation says what is not real (addition).
	Simulation string `json:"simulation,omitempty"`
}

// Quote is a signed quote with the registers it is over.
type Quote struct {
	Signature []byte   `json:"signature"` // TPMT_SIGNATURE
	Message   []byte   `json:"message"`   // TPMS_ATTEST
	PCRs      []PCRHex `json:"pcrs"`      // SHA-256 bank, register 0 first
}

// PCRHex is a register's value; in JSON 64 lower-case hex digits.
type PCRHex [32]byte

// MarshalText gives lower-case hex.
func (p PCRHex) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(p[:])), nil }

// UnmarshalText takes 64 hex digits.
func (p *PCRHex) UnmarshalText(b []byte) error {
	if len(b) != 2*len(p) {
		return errors.New("PCR value: not 64 hex digits")
	}
	_, err := hex.Decode(p[:], b)
	return err
}

// Parse decodes evidence. An unknown member is an error: it might change the
// meaning of the rest.
func Parse(b []byte) (*Evidence, error) {
	e := new(Evidence)
	if err := jsonobject.Strict(b, MaxEvidence, e); err != nil {
		return nil, fmt.Errorf("tpm evidence: %w", err)
	}
	switch {
	case len(e.Quote.PCRs) != PCRCount:
		return nil, fmt.Errorf("tpm evidence: %d PCR values, not %d", len(e.Quote.PCRs), PCRCount)
	case len(e.Quote.Signature) == 0 || len(e.Quote.Signature) > maxField:
		return nil, errors.New("tpm evidence: signature missing or too long")
	case len(e.Quote.Message) == 0 || len(e.Quote.Message) > maxField:
		return nil, errors.New("tpm evidence: message missing or too long")
	case len(e.AKPublic) == 0 || len(e.AKPublic) > maxField:
		return nil, errors.New("tpm evidence: ak_public missing or too long")
	case len(e.AKArea) > maxField || len(e.CredentialMAC) > 64:
		return nil, errors.New("tpm evidence: ak_tpmt_public or credential_hmac too long")
	case len(e.EventLog) > MaxEventLog:
		return nil, fmt.Errorf("tpm evidence: event log of %d bytes, at most %d", len(e.EventLog), MaxEventLog)
	case len(e.Entries) > MaxEntries:
		return nil, fmt.Errorf("tpm evidence: aael of %d bytes, at most %d", len(e.Entries), MaxEntries)
	case len(e.Simulation) > maxNote || strings.ContainsAny(e.Simulation, "\r\n"):
		return nil, errors.New("tpm evidence: simulation note too long or of several lines")
	}
	return e, nil
}
