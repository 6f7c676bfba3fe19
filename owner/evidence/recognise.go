package evidence

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/verifiers"
)

// recognise gives the TEE and the evidence document of a file: the published JSON,
// or a bare quote or token as a device gives it.
func recognise(tee string, file []byte) (string, json.RawMessage, error) {
	if len(file) == 0 || len(file) > MaxSize {
		return "", nil, fmt.Errorf("evidence: %d bytes, at least 1 and at most %d", len(file), MaxSize)
	}
	tee = verifiers.Canonical(tee)
	trimmed := bytes.TrimSpace(file)
	if len(trimmed) > 0 && trimmed[0] == '{' {
		if tee == "" {
			if tee = byMembers(trimmed); tee == "" {
				return "", nil, errors.New("evidence: of no TEE that is told by its shape; say which with --tee")
			}
		}
		return tee, trimmed, nil
	}
	if tee == "" {
		tee = byQuote(file)
	}
	var doc any
	switch tee {
	case "tdx":
		doc = map[string]any{"cc_eventlog": nil, "quote": base64.StdEncoding.EncodeToString(file)}
	case "sgx":
		doc = map[string]any{"quote": base64.StdEncoding.EncodeToString(file)}
	case "cca":
		token := make([]int, len(file))
		for i, b := range file {
			token[i] = int(b)
		}
		doc = map[string]any{"token": token}
	case "":
		return "", nil, errors.New("evidence: neither JSON nor a quote; say which TEE's it is with --tee")
	default:
		return "", nil, fmt.Errorf("evidence: not JSON, and %.40q has no bare form that is known here", tee)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return "", nil, fmt.Errorf("evidence: %w", err)
	}
	return tee, b, nil
}

// byMembers tells a TEE by the members that its published evidence has.
func byMembers(doc []byte) string {
	var m map[string]json.RawMessage
	if json.Unmarshal(doc, &m) != nil {
		return ""
	}
	has := func(names ...string) bool {
		for _, n := range names {
			if _, ok := m[n]; !ok {
				return false
			}
		}
		return true
	}
	switch {
	case has("attestation_report", "serial_number"):
		return "csv"
	case has("attestation_report"):
		return "snp"
	case has("quote", "cc_eventlog"):
		return "tdx"
	case has("td_quote"):
		return "az-tdx-vtpm"
	case has("vcek") && (has("hcl_report") || has("report")):
		return "az-snp-vtpm"
	case has("ak_public", "tpm_quote"):
		return "tpm"
	case has("device_evidence_list"):
		return "nvidia"
	case has("token"):
		return "cca"
	case has("attestation_reports"):
		return "hygondcu"
	case has("measurement", "additional_data", "cuid"):
		return "se"
	case has("quote"):
		var s string
		if json.Unmarshal(m["quote"], &s) == nil {
			if b, err := base64.StdEncoding.DecodeString(s); err == nil {
				return byQuote(b)
			}
		}
	}
	return ""
}

// byQuote tells a TEE by the header of a quote of Intel's.
func byQuote(b []byte) string {
	const headerSize = 48
	if len(b) < headerSize {
		return ""
	}
	version, kind := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint32(b[4:])
	switch {
	case version < 3 || version > 5:
		return ""
	case version == 3 || kind == 0:
		return "sgx"
	case kind == 0x81:
		return "tdx"
	}
	return ""
}
