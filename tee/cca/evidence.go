// Package cca holds what both sides of Arm CCA evidence share: the evidence
// codec (published "cca" format plus one additive member) and the one value that
// the guest itself reads from a token, the realm personalization value.
//
// Subpackages are split by trust step: token reads the CBOR token, attester gets
// one from the kernel, verifier checks signatures and claims, measure computes
// the realm initial measurement, sim is the hardware model of the simulator.
//
// Invariants: every decoder is bounded and never panics; nothing here decides.
// The guest carries tokens without a CBOR library.
//
// Trust zone: guest and trustee.
package cca

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/internal/ints"
	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// WireName is the TEE's name in the KBS protocol.
const WireName = "cca"

// Provider is the kernel's name of the device (configfs-tsm).
const Provider = "arm_cca_guest"

// Sizes of the realm's fields, in bytes.
const (
	ChallengeSize = 64
	RPVSize       = 64 // realm personalization value
)

// Limits of evidence, in bytes.
const (
	MaxEvidence = 512 << 10
	MaxToken    = 64 << 10
	maxNote     = 1 << 10
)

// Evidence is the primary evidence of TEE "cca".
type Evidence struct {
	// Token is the CBOR CCA token collection: platform and realm token.
	Token []byte
	// Simulation says what is not real (addition).
	Simulation string
}

type wire struct {
	Token      ints.Bytes `json:"token"`
	Simulation string     `json:"simulation,omitempty"`
}

// MarshalJSON gives the published form.
func (e *Evidence) MarshalJSON() ([]byte, error) {
	return json.Marshal(wire{e.Token, e.Simulation})
}

// Parse decodes evidence. An unknown member is an error: it might change the
// meaning of the rest.
func Parse(b []byte) (*Evidence, error) {
	var w wire
	if err := jsonobject.Strict(b, MaxEvidence, &w); err != nil {
		return nil, fmt.Errorf("cca evidence: %w", err)
	}
	switch {
	case len(w.Token) == 0 || len(w.Token) > MaxToken:
		return nil, fmt.Errorf("cca evidence: token of %d bytes, at least 1 and at most %d", len(w.Token), MaxToken)
	case len(w.Simulation) > maxNote || strings.ContainsAny(w.Simulation, "\r\n"):
		return nil, errors.New("cca evidence: simulation note too long or of several lines")
	}
	return &Evidence{Token: w.Token, Simulation: w.Simulation}, nil
}
