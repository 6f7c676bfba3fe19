// Package kbs is the contract KBS protocol 0.4.0 (RCAR): messages, runtime-data
// hash and the JWE response, as published; see SPEC.md.
//
// Trust zone: both ends. The guest treats every response as hostile until the
// TLS channel and the JWE prove otherwise; the trustee treats every request so.
package kbs

import "encoding/json"

// ProtocolVersion is the only version spoken.
const ProtocolVersion = "0.4.0"

// PathPrefix is the prefix of all published paths, relative to a base URL. A
// base URL of the form https://host/ns/<namespace> selects a namespace other
// than "default" (addition of ours).
const PathPrefix = "/kbs/v0"

// SessionCookie is the name of the session cookie.
const SessionCookie = "kbs-session-id"

// Request opens a handshake: POST /auth.
type Request struct {
	Version     string          `json:"version"`
	TEE         string          `json:"tee"`
	ExtraParams json.RawMessage `json:"extra-params"`
}

// RequestExtra is Request.ExtraParams as Coffer's guest sends it.
type RequestExtra struct {
	SupportedHashAlgorithms []string    `json:"supported-hash-algorithms,omitempty"`
	TPM                     *TPMRequest `json:"tpm,omitempty"`
	// Binding offers what the evidence may cover beside the published members
	// (addition).
	Binding []string `json:"coffer-binding,omitempty"`
}

// TPMRequest carries what the trustee needs for MakeCredential (addition).
type TPMRequest struct {
	EKCert   []byte `json:"ek-cert"`   // X.509 DER
	AKPublic []byte `json:"ak-public"` // TPMT_PUBLIC, marshalled
}

// Challenge answers Request.
type Challenge struct {
	Nonce       string          `json:"nonce"` // standard base64 of 32 bytes, or a text that the TEE defines (se)
	ExtraParams json.RawMessage `json:"extra-params"`
}

// ChallengeExtra is Challenge.ExtraParams where it is not the empty string.
type ChallengeExtra struct {
	SelectedHashAlgorithm string        `json:"selected-hash-algorithm,omitempty"`
	TPM                   *TPMChallenge `json:"tpm,omitempty"`
	Binding               []string      `json:"coffer-binding,omitempty"` // what of the offer the evidence must cover (addition)
}

// TPMChallenge is MakeCredential(EK, AK name, s) (addition).
type TPMChallenge struct {
	CredentialBlob  []byte `json:"credential-blob"`  // TPM2B_ID_OBJECT, marshalled
	EncryptedSecret []byte `json:"encrypted-secret"` // TPM2B_ENCRYPTED_SECRET, marshalled
}

// Attestation is the evidence message: POST /attest.
type Attestation struct {
	InitData    *InitData   `json:"init-data"`
	RuntimeData RuntimeData `json:"runtime-data"`
	TEEEvidence Evidence    `json:"tee-evidence"`
}

// InitData carries the initdata document as it is.
type InitData struct {
	Format string `json:"format"` // "toml"
	Body   string `json:"body"`
}

// RuntimeData is what the TEE binds into its evidence.
type RuntimeData struct {
	Nonce     string          `json:"nonce"`
	TEEPubKey json.RawMessage `json:"tee-pubkey"` // JWK subset
	// Binding has what the challenge has confirmed, nil if nothing (addition).
	Binding *Binding `json:"coffer-binding,omitempty"`
}

// Evidence holds the primary evidence object and, as a JSON string, the
// additional devices' ("" if there are none).
type Evidence struct {
	Primary    json.RawMessage `json:"primary_evidence"`
	Additional string          `json:"additional_evidence"`
}

// TokenResponse answers Attestation.
type TokenResponse struct {
	Token string `json:"token"`
}

// ErrorInfo is the body of every error answer. Reason, Claim and Record are
// additions: the public part of a denial.
type ErrorInfo struct {
	Type   string `json:"type"`
	Detail string `json:"detail"`
	Reason string `json:"reason,omitempty"`
	Claim  string `json:"claim,omitempty"`
	Record string `json:"record,omitempty"`
}
