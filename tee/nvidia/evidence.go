// Package nvidia is the codec of evidence from NVIDIA devices (GPU, NVSwitch):
// the published JSON, device by device, each with the SPDM messages and the
// certificate chain of the device. SPEC.md is the format.
//
// Subpackages are split by trust step: attester gets evidence through a helper
// process, spdm reads the messages, rim reads reference manifests, verifier
// checks signatures against named roots.
//
// Invariants: bounded, never panics; nothing here decides.
//
// Trust zone: guest and trustee.
package nvidia

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// WireName is the TEE's name in the KBS protocol.
const WireName = "nvidia"

// NonceSize is the size of an SPDM nonce in bytes: report data, truncated or
// padded.
const NonceSize = 32

// Limits of evidence.
const (
	MaxEvidence = 4 << 20 // bytes of JSON
	MaxDevices  = 32
	MaxReport   = 64 << 10 // bytes
	MaxChain    = 64 << 10 // bytes of PEM
	maxText     = 256
	maxNote     = 1 << 10
)

// Arch is a device architecture as claims spell it.
type Arch string

// Architectures.
const (
	Hopper    Arch = "Hopper"
	Blackwell Arch = "Blackwell"
	LS10      Arch = "LS10" // NVSwitch
)

// ParseArch reads a name without regard to case.
func ParseArch(s string) (Arch, error) {
	for _, a := range []Arch{Hopper, Blackwell, LS10} {
		if strings.EqualFold(s, string(a)) {
			return a, nil
		}
	}
	return "", fmt.Errorf("unknown architecture %.20q", s)
}

// UnknownUUID stands for a UUID that was not sent.
const UnknownUUID = "unknown"

// Evidence is the evidence of all NVIDIA devices of one guest.
type Evidence struct {
	Devices []Device `json:"device_evidence_list"`
	// Simulation says what is not real (addition).
	Simulation string `json:"simulation,omitempty"`
}

// Device is one device's evidence, with its texts as they came.
type Device struct {
	Arch string `json:"arch"`
	UUID string `json:"uuid,omitempty"`
	// Report is the SPDM GET_MEASUREMENTS request and response, in hex or in
	// standard base64.
	Report string `json:"evidence"`
	// Certificate is standard base64 of the PEM chain, leaf first.
	Certificate string `json:"certificate"`
}

// Parse decodes evidence. Unknown members are passed over, as the published
// codec does; two of one name are an error.
func Parse(b []byte) (*Evidence, error) {
	e, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("nvidia evidence: %w", err)
	}
	return e, nil
}

func parse(b []byte) (*Evidence, error) {
	m, err := jsonobject.Members(b, MaxEvidence)
	if err != nil {
		return nil, err
	}
	list, err := jsonobject.Elements(m["device_evidence_list"], MaxDevices)
	if err != nil {
		return nil, fmt.Errorf("device_evidence_list: %w", err)
	}
	if len(list) == 0 {
		return nil, errors.New("device_evidence_list: no device")
	}
	e := &Evidence{Devices: make([]Device, len(list))}
	for i, raw := range list {
		if e.Devices[i], err = parseDevice(raw); err != nil {
			return nil, fmt.Errorf("device_evidence_list[%d]: %w", i, err)
		}
	}
	if e.Simulation, err = jsonobject.Optional[string](m, "simulation"); err != nil {
		return nil, err
	}
	if len(e.Simulation) > maxNote || strings.ContainsAny(e.Simulation, "\r\n") {
		return nil, errors.New("simulation: too long or of several lines")
	}
	return e, nil
}

func parseDevice(raw json.RawMessage) (Device, error) {
	m, err := jsonobject.Members(raw, MaxEvidence)
	if err != nil {
		return Device{}, err
	}
	var d Device
	for _, f := range []struct {
		name string
		to   *string
		max  int
		opt  bool
	}{
		{"arch", &d.Arch, maxText, false}, {"uuid", &d.UUID, maxText, true},
		{"evidence", &d.Report, 2*MaxReport + 2, false}, {"certificate", &d.Certificate, 2 * MaxChain, false},
	} {
		get := jsonobject.Required[string]
		if f.opt {
			get = jsonobject.Optional[string]
		}
		if *f.to, err = get(m, f.name); err != nil {
			return Device{}, err
		}
		if len(*f.to) > f.max {
			return Device{}, fmt.Errorf("%s: %d characters, at most %d", f.name, len(*f.to), f.max)
		}
	}
	if d.UUID == "" {
		d.UUID = UnknownUUID
	}
	return d, nil
}

// ReportBytes decodes Report: what is hex is taken for hex, as published.
func (d *Device) ReportBytes() ([]byte, error) {
	var b []byte
	var err error
	if strings.Trim(d.Report, "0123456789abcdefABCDEF") == "" && len(d.Report)%2 == 0 {
		b, err = hex.DecodeString(d.Report)
	} else {
		b, err = decode(d.Report)
	}
	if err != nil {
		return nil, errors.New("neither hex nor base64")
	}
	if len(b) == 0 || len(b) > MaxReport {
		return nil, fmt.Errorf("%d bytes, at least 1 and at most %d", len(b), MaxReport)
	}
	return b, nil
}

// Chain decodes Certificate.
func (d *Device) Chain() ([]byte, error) {
	b, err := decode(d.Certificate)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 || len(b) > MaxChain {
		return nil, fmt.Errorf("%d bytes, at least 1 and at most %d", len(b), MaxChain)
	}
	return b, nil
}

// decode reads standard base64; Go's own reader passes over ends of lines.
func decode(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("not base64")
	}
	return b, nil
}

// NewDevice makes a device's evidence as today's attester of the other
// implementation spells it: both in base64.
func NewDevice(arch, uuid string, report, chain []byte) Device {
	return Device{arch, uuid, base64.StdEncoding.EncodeToString(report), base64.StdEncoding.EncodeToString(chain)}
}
