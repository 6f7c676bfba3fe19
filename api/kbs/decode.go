package kbs

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Limits of the messages, in bytes. An attestation carries initdata as text.
const (
	MaxRequest     = 64 << 10
	MaxChallenge   = 64 << 10
	MaxAttestation = 8 << 20
	MaxAdditional  = 1 << 20 // bytes of additional_evidence, as a text
	MaxDeviceTEEs  = 16      // members of additional_evidence
	MaxToken       = 256 << 10
	MaxError       = 64 << 10
)

// DecodeRequest reads the body of POST /auth. Unknown members are ignored, as
// published; a missing one is an error.
func DecodeRequest(b []byte) (*Request, error) {
	r := new(Request)
	if err := decode(b, MaxRequest, r); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if r.Version == "" || r.TEE == "" || r.ExtraParams == nil {
		return nil, errors.New("request: version, tee or extra-params missing")
	}
	return r, nil
}

// Extra reads extra-params; anything but an object (older clients send "") is none.
func (r *Request) Extra() (*RequestExtra, error) {
	x := new(RequestExtra)
	if t := bytes.TrimSpace(r.ExtraParams); len(t) == 0 || t[0] != '{' {
		return x, nil
	}
	if err := json.Unmarshal(r.ExtraParams, x); err != nil {
		return nil, fmt.Errorf("request: extra-params: %w", err)
	}
	return x, nil
}

// DecodeChallenge reads the answer to POST /auth.
func DecodeChallenge(b []byte) (*Challenge, *ChallengeExtra, error) {
	c := new(Challenge)
	if err := decode(b, MaxChallenge, c); err != nil {
		return nil, nil, fmt.Errorf("challenge: %w", err)
	}
	if c.Nonce == "" {
		return nil, nil, errors.New("challenge: no nonce")
	}
	x := new(ChallengeExtra)
	if t := bytes.TrimSpace(c.ExtraParams); len(t) > 0 && t[0] == '{' {
		if err := json.Unmarshal(t, x); err != nil {
			return nil, nil, fmt.Errorf("challenge: extra-params: %w", err)
		}
	}
	return c, x, nil
}

// DecodeAttestation reads the body of POST /attest.
func DecodeAttestation(b []byte) (*Attestation, error) {
	a := new(Attestation)
	err := bounded(b, MaxAttestation)
	if err == nil {
		err = decodeAttestation(b, a)
	}
	if err != nil {
		return nil, fmt.Errorf("attestation: %w", err)
	}
	switch {
	case a.RuntimeData.Nonce == "" || a.RuntimeData.TEEPubKey == nil:
		return nil, errors.New("attestation: runtime-data incomplete")
	case a.RuntimeData.Binding.Check() != nil:
		return nil, fmt.Errorf("attestation: runtime-data: %w", a.RuntimeData.Binding.Check())
	case a.TEEEvidence.Primary == nil:
		return nil, errors.New("attestation: no primary_evidence")
	case a.InitData != nil && a.InitData.Format != "toml":
		return nil, fmt.Errorf("attestation: init-data format %.20q is not supported", a.InitData.Format)
	}
	return a, nil
}

// NonceBytes decodes a nonce of 32 bytes.
func NonceBytes(nonce string) ([]byte, error) {
	n, err := base64.StdEncoding.Strict().DecodeString(nonce)
	if err != nil || len(n) != 32 {
		return nil, errors.New("nonce is not the standard base64 of 32 bytes")
	}
	return n, nil
}

func decode(b []byte, limit int, v any) error {
	if err := bounded(b, limit); err != nil {
		return err
	}
	return json.Unmarshal(b, v) // nothing may come after the document
}

func bounded(b []byte, limit int) error {
	if len(b) > limit {
		return fmt.Errorf("%d bytes, at most %d", len(b), limit)
	}
	if !utf8.Valid(b) {
		return errors.New("not UTF-8") // the decoder would replace what it cannot read
	}
	return nil
}
