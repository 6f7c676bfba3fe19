// Package quote reads and writes the quotes of Intel's Quoting Enclaves: SGX
// quote v3, TDX quote v4, and v5 with its typed bodies (Intel TDX DCAP Quoting
// Library API, appendix A; Intel SGX ECDSA Quote Library API, appendix A).
//
// Invariants: every length is checked before it is used; what follows the
// signature data may only be zeros; nothing here says that a quote is genuine.
//
// Trust zone: guest and trustee; it links no verifier.
package quote

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxSize is the largest quote that is looked at, in bytes, zeros behind it
// included.
const MaxSize = 64 << 10

// Sizes in bytes.
const (
	HeaderSize     = 48
	EnclaveSize    = 384 // SGX report body
	TD10Size       = 584 // TD report body of TDX 1.0
	TD15Size       = 648 // of TDX 1.5
	SignatureSize  = 64  // r and s, big endian
	PublicKeySize  = 64  // x and y, big endian
	bodyPrefixSize = 6   // v5: type, size
)

// TEE types of a header.
const (
	SGX uint32 = 0
	TDX uint32 = 0x81
)

// Body types of v5; v3 and v4 have them implied.
const (
	BodyEnclave uint16 = 1
	BodyTD10    uint16 = 2
	BodyTD15    uint16 = 3
)

// Types of certification data.
const (
	CertPCKChain uint16 = 5 // PEM: PCK leaf, CA, root
	CertQEReport uint16 = 6 // QE report with nested certification data
)

// AttKeyECDSAP256 is the only attestation key type there is.
const AttKeyECDSAP256 uint16 = 2

// VendorIntel is the QE vendor of Intel's Quoting Enclaves.
var VendorIntel = [16]byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// Header is a quote's first 48 bytes.
type Header struct {
	Version    uint16
	AttKeyType uint16
	TEEType    uint32  // v3: reserved ("att_key_data_0"), zero
	Reserved   [4]byte // v3: QE SVN and PCE SVN
	Vendor     [16]byte
	UserData   [20]byte
}

// Quote is a quote taken apart. Slices alias the bytes it was parsed from.
type Quote struct {
	Header   Header
	BodyType uint16
	BodySize uint32 // as v5 spells it
	// Exactly one of TD and Enclave is set.
	TD      *TD
	Enclave *Enclave
	// Signed is what the attestation key signed: header and body.
	Signed    []byte
	Signature []byte // 64 bytes
	// AttestationKey is the QE's key, 64 bytes, vouched for by QEReport.
	AttestationKey    []byte
	QEReport          *Enclave
	QEReportRaw       []byte
	QEReportSignature []byte
	QEAuthData        []byte
	CertType          uint16 // of the innermost certification data
	CertData          []byte
}

// TEE gives the header's TEE type (SGX for v3, which has none).
func (q *Quote) TEE() uint32 {
	if q.Enclave != nil {
		return SGX
	}
	return TDX
}

// ReportData gives the body's 64 bytes.
func (q *Quote) ReportData() []byte {
	if q.Enclave != nil {
		return q.Enclave.ReportData[:]
	}
	return q.TD.ReportData[:]
}

// reader takes bytes from the front; after the first shortage it gives nothing.
type reader struct {
	b   []byte
	bad string
}

func (r *reader) take(n int, what string) []byte {
	if r.bad != "" {
		return nil
	}
	if n < 0 || n > len(r.b) {
		r.bad = fmt.Sprintf("%s: %d bytes wanted, %d left", what, n, len(r.b))
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u16(what string) uint16 {
	if b := r.take(2, what); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// size reads a 32-bit length.
func (r *reader) size(what string) int {
	b := r.take(4, what)
	if b == nil {
		return 0
	}
	n := binary.LittleEndian.Uint32(b)
	if n > MaxSize {
		r.bad = fmt.Sprintf("%s: %d bytes, at most %d", what, n, MaxSize)
		return 0
	}
	return int(n)
}

func (r *reader) err() error {
	if r.bad != "" {
		return errors.New(r.bad)
	}
	return nil
}

// Parse takes a quote apart.
func Parse(raw []byte) (*Quote, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("quote: %d bytes, at most %d", len(raw), MaxSize)
	}
	q := new(Quote)
	r := &reader{b: raw}
	if err := q.header(r); err != nil {
		return nil, fmt.Errorf("quote header: %w", err)
	}
	if err := q.body(r); err != nil {
		return nil, fmt.Errorf("quote body: %w", err)
	}
	q.Signed = raw[: len(raw)-len(r.b) : len(raw)-len(r.b)]
	sig := &reader{b: r.take(r.size("signature data size"), "signature data")}
	if err := r.err(); err != nil {
		return nil, fmt.Errorf("quote: %w", err)
	}
	if err := q.signature(sig); err != nil {
		return nil, fmt.Errorf("quote signature data: %w", err)
	}
	// Buffers of fixed size reach us through some devices and clouds.
	if len(bytes.TrimLeft(r.b, "\x00")) > 0 {
		return nil, errors.New("quote: data behind the signature")
	}
	return q, nil
}

func (q *Quote) header(r *reader) error {
	b := r.take(HeaderSize, "header")
	if b == nil {
		return r.err()
	}
	h := &q.Header
	h.Version, h.AttKeyType = binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:])
	h.TEEType = binary.LittleEndian.Uint32(b[4:])
	copy(h.Reserved[:], b[8:])
	copy(h.Vendor[:], b[12:])
	copy(h.UserData[:], b[28:])
	switch {
	case h.Version < 3 || h.Version > 5:
		return fmt.Errorf("version %d is not 3, 4 or 5", h.Version)
	case h.AttKeyType != AttKeyECDSAP256:
		return fmt.Errorf("attestation key type %d is not ECDSA P-256", h.AttKeyType)
	case h.Version == 3 && h.TEEType != SGX, h.TEEType != SGX && h.TEEType != TDX:
		return fmt.Errorf("TEE type %#x in a quote of version %d", h.TEEType, h.Version)
	case h.Vendor != VendorIntel:
		return fmt.Errorf("QE vendor %x is not Intel", h.Vendor)
	}
	return nil
}

func (q *Quote) body(r *reader) error {
	switch {
	case q.Header.Version == 5:
		q.BodyType = r.u16("body type")
		q.BodySize = uint32(r.size("body size"))
	case q.Header.TEEType == TDX:
		q.BodyType, q.BodySize = BodyTD10, TD10Size
	default:
		q.BodyType, q.BodySize = BodyEnclave, EnclaveSize
	}
	if err := r.err(); err != nil {
		return err
	}
	want := map[uint16]struct {
		size int
		tee  uint32
	}{BodyEnclave: {EnclaveSize, SGX}, BodyTD10: {TD10Size, TDX}, BodyTD15: {TD15Size, TDX}}[q.BodyType]
	if want.size == 0 || int(q.BodySize) != want.size || q.Header.TEEType != want.tee {
		return fmt.Errorf("type %d of %d bytes for TEE type %#x", q.BodyType, q.BodySize, q.Header.TEEType)
	}
	b := r.take(want.size, "body")
	if b == nil {
		return r.err()
	}
	if want.tee == TDX {
		q.TD = parseTD(b)
	} else {
		q.Enclave = parseEnclave(b)
	}
	return nil
}

func (q *Quote) signature(r *reader) error {
	q.Signature = r.take(SignatureSize, "signature")
	q.AttestationKey = r.take(PublicKeySize, "attestation key")
	if q.Header.Version > 3 {
		t := r.u16("certification data type")
		n := r.size("certification data size")
		switch {
		case r.bad != "":
			return r.err()
		case t != CertQEReport:
			return fmt.Errorf("certification data of type %d, not %d", t, CertQEReport)
		case n != len(r.b):
			return fmt.Errorf("certification data of %d bytes in %d", n, len(r.b))
		}
	}
	q.QEReportRaw = r.take(EnclaveSize, "QE report")
	q.QEReportSignature = r.take(SignatureSize, "QE report signature")
	q.QEAuthData = r.take(int(r.u16("QE authentication data size")), "QE authentication data")
	q.CertType = r.u16("certification data type")
	q.CertData = r.take(r.size("certification data size"), "certification data")
	switch {
	case r.bad != "":
		return r.err()
	case len(r.b) != 0:
		return fmt.Errorf("%d bytes too many", len(r.b))
	}
	q.QEReport = parseEnclave(q.QEReportRaw)
	return nil
}
