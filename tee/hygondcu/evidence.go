// Package hygondcu holds the codec of the evidence of Hygon accelerators (DCU, wire
// name "hygondcu"): reports that each chip signs with its endorsement key.
//
// Subpackages: verifier; dcutest makes reports under a root of its own. There is
// no attester: the kernel's interface is documented nowhere that we know of.
//
// Trust zone: guest and trustee.
package hygondcu

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/csv"
	"github.com/cofferproject/coffer/tee/internal/ints"
	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// WireName is the TEE's name in the KBS protocol.
const WireName = "hygondcu"

// Sizes and limits, in bytes and reports.
const (
	MaxEvidence  = 1 << 20
	MaxReports   = 64
	ChipIDSize   = 16
	UserDataSize = 64
	MeasureSize  = 32
	reservedSize = 128
	coordSize    = 72
)

// Report is what one chip says.
type Report struct {
	Version  uint32
	ChipID   [ChipIDSize]byte
	UserData [UserDataSize]byte
	Measure  [MeasureSize]byte
	Reserved [reservedSize]byte
	SigUsage uint32
	SigAlgo  uint32
	R, S     [coordSize]byte // little-endian
}

// Evidence is the evidence of TEE "hygondcu".
type Evidence struct{ Reports []Report }

type wireEvidence struct {
	Reports []wireReport `json:"attestation_reports"`
}

type wireReport struct {
	Body struct {
		ChipID   ints.Bytes `json:"chip_id"`
		Measure  ints.Bytes `json:"measure"`
		Reserved ints.Bytes `json:"reserved"`
		SigAlgo  uint32     `json:"sig_algo"`
		SigUsage uint32     `json:"sig_usage"`
		UserData ints.Bytes `json:"user_data"`
		Version  uint32     `json:"version"`
	} `json:"body"`
	Sig struct {
		R ints.Bytes `json:"r"`
		S ints.Bytes `json:"s"`
	} `json:"sig"`
}

// fields pairs the byte fields with their wire form.
func (r *Report) fields(w *wireReport) []struct {
	name string
	b    []byte
	w    *ints.Bytes
} {
	return []struct {
		name string
		b    []byte
		w    *ints.Bytes
	}{
		{"chip_id", r.ChipID[:], &w.Body.ChipID}, {"user_data", r.UserData[:], &w.Body.UserData}, {"measure", r.Measure[:], &w.Body.Measure},
		{"reserved", r.Reserved[:], &w.Body.Reserved}, {"r", r.R[:], &w.Sig.R}, {"s", r.S[:], &w.Sig.S},
	}
}

// MarshalJSON gives the published form.
func (e *Evidence) MarshalJSON() ([]byte, error) {
	w := wireEvidence{Reports: make([]wireReport, len(e.Reports))}
	for i := range e.Reports {
		r, to := &e.Reports[i], &w.Reports[i]
		to.Body.Version, to.Body.SigUsage, to.Body.SigAlgo = r.Version, r.SigUsage, r.SigAlgo
		for _, f := range r.fields(to) {
			*f.w = f.b
		}
	}
	return json.Marshal(w)
}

// Parse decodes evidence. An unknown member is an error.
func Parse(b []byte) (*Evidence, error) {
	var w wireEvidence
	if err := jsonobject.Strict(b, MaxEvidence, &w); err != nil {
		return nil, fmt.Errorf("hygondcu evidence: %w", err)
	}
	if len(w.Reports) == 0 || len(w.Reports) > MaxReports {
		return nil, fmt.Errorf("hygondcu evidence: %d reports, at least 1 and at most %d", len(w.Reports), MaxReports)
	}
	e := &Evidence{Reports: make([]Report, len(w.Reports))}
	for i := range w.Reports {
		from, r := &w.Reports[i], &e.Reports[i]
		r.Version, r.SigUsage, r.SigAlgo = from.Body.Version, from.Body.SigUsage, from.Body.SigAlgo
		for _, f := range r.fields(from) {
			if err := f.w.Fixed(len(f.b)); err != nil {
				return nil, fmt.Errorf("hygondcu evidence: report %d: %s: %w", i, f.name, err)
			}
			copy(f.b, *f.w)
		}
	}
	return e, nil
}

// Body is what the chip signs, little-endian.
func (r *Report) Body() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, r.Version)
	b = append(append(append(append(b, r.ChipID[:]...), r.UserData[:]...), r.Measure[:]...), r.Reserved[:]...)
	return le.AppendUint32(le.AppendUint32(b, r.SigUsage), r.SigAlgo)
}

// Signature is the chip's.
func (r *Report) Signature() csv.Signature { return csv.Signature{R: r.R[:], S: r.S[:]} }

// Chip gives the chip id's text, under which its certificates are published.
func (r *Report) Chip() (string, error) {
	s := strings.TrimRight(string(r.ChipID[:]), "\x00")
	if s == "" {
		return "", errors.New("chip id is empty")
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return "", fmt.Errorf("chip id %.20q is not letters and digits", s)
		}
	}
	return s, nil
}
