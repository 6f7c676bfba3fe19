// Package csv holds what both sides of Hygon CSV evidence share: the evidence
// codec (published "csv" format), reports of version 1 and 2, and the
// certificates of Hygon's keys.
//
// Subpackages are split by trust step: attester gets evidence from the kernel,
// verifier checks signatures and chain against Hygon's root key, csvtest makes
// evidence under a root of its own.
//
// Invariants: every decoder is bounded and never panics; nothing here decides.
//
// Trust zone: guest and trustee.
package csv

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/internal/ints"
	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// WireName is the TEE's name in the KBS protocol.
const WireName = "csv"

// Limits and sizes, in bytes.
const (
	MaxEvidence = 6 << 20
	MaxEventLog = 4 << 20
	ReportSize  = 4096
	SerialSize  = 64
	magicSize   = 16
)

// ExtendedMagic marks reports of the extended request.
var ExtendedMagic = [magicSize]byte([]byte("ATTESTATION_EXT\x00"))

// Evidence is the primary evidence of TEE "csv".
type Evidence struct {
	Report [ReportSize]byte
	Flags  uint32
	Magic  [magicSize]byte
	// HSK and CEK come with the evidence, or are nil.
	HSK *RootCert
	CEK *Cert
	PEK Cert
	// Serial is the chip's serial number, padded with zeros.
	Serial [SerialSize]byte
	// EventLog is the confidential computing event log; nil: none.
	EventLog []byte
}

type wireEvidence struct {
	Report   wireReport `json:"attestation_report"`
	EventLog *[]byte    `json:"cc_eventlog"`
	Chain    wireChain  `json:"cert_chain"`
	Serial   ints.Bytes `json:"serial_number"`
}

type wireReport struct {
	Data  ints.Bytes `json:"data"`
	Flags uint32     `json:"flags"`
	Magic ints.Bytes `json:"magic"`
}

type wireChain struct {
	HSKCEK *wireHSKCEK `json:"hsk_cek,omitempty"`
	PEK    *Cert       `json:"pek"`
}

type wireHSKCEK struct {
	CEK *Cert     `json:"cek"`
	HSK *RootCert `json:"hsk"`
}

// MarshalJSON gives the published form.
func (e *Evidence) MarshalJSON() ([]byte, error) {
	w := wireEvidence{
		Report: wireReport{e.Report[:], e.Flags, e.Magic[:]},
		Chain:  wireChain{PEK: &e.PEK}, Serial: e.Serial[:],
	}
	if e.HSK != nil && e.CEK != nil {
		w.Chain.HSKCEK = &wireHSKCEK{e.CEK, e.HSK}
	}
	if e.EventLog != nil {
		w.EventLog = &e.EventLog
	}
	return json.Marshal(w)
}

// Parse decodes evidence. An unknown member is an error.
func Parse(b []byte) (*Evidence, error) {
	var w wireEvidence
	if err := jsonobject.Strict(b, MaxEvidence, &w); err != nil {
		return nil, fmt.Errorf("csv evidence: %w", err)
	}
	e := &Evidence{Flags: w.Report.Flags}
	for _, f := range []struct {
		name string
		to   []byte
		from ints.Bytes
	}{{"data", e.Report[:], w.Report.Data}, {"magic", e.Magic[:], w.Report.Magic}, {"serial_number", e.Serial[:], w.Serial}} {
		if err := f.from.Fixed(len(f.to)); err != nil {
			return nil, fmt.Errorf("csv evidence: %s: %w", f.name, err)
		}
		copy(f.to, f.from)
	}
	if w.Chain.PEK == nil {
		return nil, errors.New("csv evidence: no PEK")
	}
	e.PEK = *w.Chain.PEK
	if c := w.Chain.HSKCEK; c != nil {
		if c.HSK == nil || c.CEK == nil {
			return nil, errors.New("csv evidence: hsk_cek is not complete")
		}
		e.HSK, e.CEK = c.HSK, c.CEK
	}
	if w.EventLog != nil {
		if e.EventLog = *w.EventLog; len(e.EventLog) > MaxEventLog || e.EventLog == nil {
			return nil, fmt.Errorf("csv evidence: event log of %d bytes, at most %d", len(e.EventLog), MaxEventLog)
		}
	}
	return e, nil
}

// SerialNumber gives the serial number's text: letters and digits.
func (e *Evidence) SerialNumber() (string, error) {
	s := strings.TrimRight(string(e.Serial[:]), "\x00")
	if s == "" {
		return "", errors.New("serial number is empty")
	}
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return "", fmt.Errorf("serial number %.70q is not letters and digits", s)
		}
	}
	return s, nil
}
