// Package nvidiadpu is the codec of evidence from NVIDIA BlueField DPUs: a DICE
// chain of two certificates, and the alias key's signature over report data.
// SPEC.md is the format. Subpackage verifier judges it.
//
// Invariants: bounded, never panics; nothing here decides.
//
// Trust zone: guest and trustee.
package nvidiadpu

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// WireName is the TEE's name in the KBS protocol.
const WireName = "nvidiadpu"

// Version is the only version of the evidence.
const Version = 1

// Limits of evidence.
const (
	MaxEvidence  = 64 << 10 // bytes of JSON
	maxText      = 256
	maxField     = 8 << 10 // bytes
	maxSignature = 160
)

// Evidence is the evidence of one DPU.
type Evidence struct {
	Version int      `json:"version"`
	Devices []Device `json:"devices"` // exactly one
	// Simulation says what is not real (addition).
	Simulation string `json:"simulation,omitempty"`
}

// Device is one DPU.
type Device struct {
	Architecture string `json:"architecture"` // "bluefield3"; signed by nobody
	Alias        []byte `json:"alias_cert"`
	DeviceID     []byte `json:"device_id_cert"`
	// Signature is by the alias key over report data: DER, or r and s.
	Signature []byte `json:"report_data_signature"`
}

// Parse decodes evidence. Unknown members are passed over, as the published
// codec does; two of one name are an error.
func Parse(b []byte) (*Evidence, error) {
	e, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("nvidia dpu evidence: %w", err)
	}
	return e, nil
}

func parse(b []byte) (*Evidence, error) {
	m, err := jsonobject.Members(b, MaxEvidence)
	if err != nil {
		return nil, err
	}
	e := new(Evidence)
	if e.Version, err = jsonobject.Required[int](m, "version"); err != nil {
		return nil, err
	}
	if e.Version != Version {
		return nil, fmt.Errorf("version %d, only %d", e.Version, Version)
	}
	list, err := jsonobject.Elements(m["devices"], 1)
	if err != nil {
		return nil, fmt.Errorf("devices: %w", err)
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("%d devices, not 1", len(list))
	}
	d, err := parseDevice(list[0])
	if err != nil {
		return nil, fmt.Errorf("devices[0]: %w", err)
	}
	e.Devices = []Device{d}
	if e.Simulation, err = jsonobject.Optional[string](m, "simulation"); err != nil {
		return nil, err
	}
	if len(e.Simulation) > 4*maxText || strings.ContainsAny(e.Simulation, "\r\n") {
		return nil, errors.New("simulation: too long or of several lines")
	}
	return e, nil
}

func parseDevice(raw json.RawMessage) (d Device, err error) {
	m, err := jsonobject.Members(raw, MaxEvidence)
	if err != nil {
		return d, err
	}
	if d.Architecture, err = jsonobject.Required[string](m, "architecture"); err != nil {
		return d, err
	}
	if len(d.Architecture) > maxText {
		return d, errors.New("architecture: too long")
	}
	for _, f := range []struct {
		name string
		to   *[]byte
		max  int
	}{{"alias_cert", &d.Alias, maxField}, {"device_id_cert", &d.DeviceID, maxField}, {"report_data_signature", &d.Signature, maxSignature}} {
		s, err := jsonobject.Required[string](m, f.name)
		if err != nil {
			return d, err
		}
		if *f.to, err = base64.StdEncoding.Strict().DecodeString(s); err != nil || strings.ContainsAny(s, "\r\n") {
			return d, fmt.Errorf("%s: not base64", f.name)
		}
		if len(*f.to) == 0 || len(*f.to) > f.max {
			return d, fmt.Errorf("%s: %d bytes, at least 1 and at most %d", f.name, len(*f.to), f.max)
		}
	}
	return d, nil
}
