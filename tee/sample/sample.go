// Package sample is the codec of the other implementation's sample evidence
// (TEE names "sample" and "sampledevice"): no TEE, no signature, nothing
// protected. It exists for interoperability tests. SPEC.md is the format.
//
// Invariants: bounded, never panics; nothing here decides.
//
// Trust zone: tests and simulated namespaces.
package sample

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// Wire names.
const (
	WireName       = "sample"
	DeviceWireName = "sampledevice"
)

// Security version numbers that the published attesters claim.
const (
	SVN       = "1"
	DeviceSVN = "2"
)

// Limits of evidence.
const (
	MaxEvidence   = 64 << 10 // bytes of JSON
	maxSVN        = 64
	maxReportData = 1 << 10 // bytes
)

// Evidence is sample evidence.
type Evidence struct {
	SVN string `json:"svn"`
	// ReportData is as it was handed in, unfitted.
	ReportData []byte `json:"report_data"`
}

// Parse decodes evidence. Unknown members are passed over, as the published
// codec does; two of one name are an error.
func Parse(b []byte) (*Evidence, error) {
	e, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("sample evidence: %w", err)
	}
	return e, nil
}

func parse(b []byte) (*Evidence, error) {
	m, err := jsonobject.Members(b, MaxEvidence)
	if err != nil {
		return nil, err
	}
	e := new(Evidence)
	if e.SVN, err = jsonobject.Required[string](m, "svn"); err != nil {
		return nil, err
	}
	if len(e.SVN) > maxSVN {
		return nil, errors.New("svn: too long")
	}
	text, err := jsonobject.Required[string](m, "report_data")
	if err != nil {
		return nil, err
	}
	if e.ReportData, err = base64.StdEncoding.Strict().DecodeString(text); err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("report_data: not base64")
	}
	if len(e.ReportData) > maxReportData {
		return nil, fmt.Errorf("report_data: %d bytes, at most %d", len(e.ReportData), maxReportData)
	}
	return e, nil
}
