package azure

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Layout of the HCL report (SPEC.md).
const (
	hwOffset      = 32
	hwSize        = 1184
	runtimeOffset = hwOffset + hwSize
	claimsOffset  = runtimeOffset + 20

	// SNPReportSize and TDReportSize are the sizes of the hardware's reports.
	SNPReportSize = 1184
	TDReportSize  = 1024

	requestType = 2
	typeSNP     = 2
	typeTDX     = 4
	hashSHA256  = 1
)

// HCL is a parsed HCL report. Its slices are parts of the bytes it was parsed from.
type HCL struct {
	TEE string // SNP or TDX, by the report type
	// Hardware is the hardware's report: SNPReportSize or TDReportSize bytes.
	Hardware []byte
	// RuntimeClaims are the bytes whose hash the hardware's report carries.
	RuntimeClaims []byte
}

var errType = errors.New("report type is neither SNP nor TDX")

// ParseHCL takes a report apart. The header and the padding are covered by no
// signature, so that they must be exactly what is known.
func ParseHCL(b []byte) (*HCL, error) {
	h, err := parseHCL(b)
	if err != nil {
		return nil, fmt.Errorf("HCL report: %w", err)
	}
	return h, nil
}

func parseHCL(b []byte) (*HCL, error) {
	if len(b) < claimsOffset || len(b) > MaxReport {
		return nil, fmt.Errorf("%d bytes, at least %d and at most %d", len(b), claimsOffset, MaxReport)
	}
	u32 := func(off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
	size, n := u32(runtimeOffset), u32(claimsOffset-4)
	switch {
	case string(b[:4]) != "HCLA":
		return nil, errors.New("does not begin with HCLA")
	case u32(4) != 1 && u32(4) != 2:
		return nil, fmt.Errorf("version %d is not known", u32(4))
	case u32(12) != requestType || u32(16) != 0:
		return nil, fmt.Errorf("request type %d, status %d: no report", u32(12), u32(16))
	case !zero(b[20:hwOffset]):
		return nil, errors.New("reserved bytes are set")
	case u32(runtimeOffset+4) != 1:
		return nil, fmt.Errorf("runtime data version %d is not known", u32(runtimeOffset+4))
	case u32(runtimeOffset+12) != hashSHA256:
		return nil, fmt.Errorf("hash type %d is not SHA-256", u32(runtimeOffset+12))
	case n == 0 || uint64(n) > uint64(len(b)-claimsOffset):
		return nil, fmt.Errorf("%d bytes of runtime claims do not fit", n)
	case size != 20+n || u32(8) != runtimeOffset+size:
		return nil, errors.New("sizes contradict each other")
	case !zero(b[claimsOffset+n:]):
		return nil, errors.New("padding is not zero")
	}
	h := &HCL{RuntimeClaims: b[claimsOffset : claimsOffset+n]}
	switch u32(runtimeOffset + 8) {
	case typeSNP:
		h.TEE, h.Hardware = SNP, b[hwOffset:hwOffset+SNPReportSize]
	case typeTDX:
		h.TEE, h.Hardware = TDX, b[hwOffset:hwOffset+TDReportSize]
		if !zero(b[hwOffset+TDReportSize : runtimeOffset]) {
			return nil, errors.New("bytes after the TDREPORT are set")
		}
	default:
		return nil, errType
	}
	return h, nil
}

// EncodeHCL builds a report, for simulators and tests; it is ParseHCL's inverse,
// without padding at the end.
func EncodeHCL(h *HCL) ([]byte, error) {
	typ, size := uint32(typeSNP), SNPReportSize
	if h.TEE == TDX {
		typ, size = typeTDX, TDReportSize
	}
	if len(h.Hardware) != size || claimsOffset+len(h.RuntimeClaims) > MaxReport {
		return nil, errors.New("encoding HCL report: hardware report or runtime claims of a wrong size")
	}
	n := uint32(len(h.RuntimeClaims))
	le := binary.LittleEndian
	b := append(make([]byte, 0, claimsOffset+len(h.RuntimeClaims)), "HCLA"...)
	for _, v := range []uint32{2, runtimeOffset + 20 + n, requestType, 0, 0, 0, 0} {
		b = le.AppendUint32(b, v)
	}
	b = append(b, h.Hardware...)
	b = append(b, make([]byte, hwSize-size)...)
	for _, v := range []uint32{20 + n, 1, typ, hashSHA256, n} {
		b = le.AppendUint32(b, v)
	}
	return append(b, h.RuntimeClaims...), nil
}

// ClaimsHash is what the hardware's report carries in the first half of its
// report data; the second is zero.
func (h *HCL) ClaimsHash() [32]byte { return sha256.Sum256(h.RuntimeClaims) }

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
