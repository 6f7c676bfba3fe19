package csv

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/internal/ints"
	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// Key usages of Hygon's certificates.
const (
	UsageHRK     uint32 = 0x0000
	UsageHSK     uint32 = 0x0013
	UsageInvalid uint32 = 0x1000
	UsageOCA     uint32 = 0x1001
	UsagePEK     uint32 = 0x1002
	UsageCEK     uint32 = 0x1004
)

// Algorithms and curves.
const (
	AlgSM2   uint32 = 4 // SM2 signature with SM3
	CurveSM2 uint32 = 3
)

// Sizes of certificates, in bytes; all their numbers are little-endian.
const (
	RootCertSize = 832
	CertSize     = 2084
	coordSize    = 72
	idSize       = 254
)

// PublicKey is a key as certificates have it.
type PublicKey struct {
	Curve uint32
	X, Y  []byte // little-endian, 72 bytes each
	ID    []byte // of the signer
}

// Signature is r and s, little-endian, 72 bytes each.
type Signature struct{ R, S []byte }

// RootCert is a certificate of Hygon's own keys (HRK, HSK), as published.
type RootCert [RootCertSize]byte

func u32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// Usage is the usage of the certified key.
func (c *RootCert) Usage() uint32 { return u32(c[36:]) }

// Body is what the signature is over.
func (c *RootCert) Body() []byte { return c[:576] }

// Key is the certified key.
func (c *RootCert) Key() (*PublicKey, error) { return key(c[64:212], c[212:468]) }

// Signature is the issuer's.
func (c *RootCert) Signature() Signature { return Signature{c[576:648], c[648:720]} }

// Cert is a certificate of a platform's keys (CEK, PEK), as published.
type Cert [CertSize]byte

// Usage is the usage of the certified key, Algorithm its algorithm.
func (c *Cert) Usage() uint32 { return u32(c[8:]) }

// Algorithm is the certified key's algorithm.
func (c *Cert) Algorithm() uint32 { return u32(c[12:]) }

// Body is what the signatures are over.
func (c *Cert) Body() []byte { return c[:1044] }

// Key is the certified key.
func (c *Cert) Key() (*PublicKey, error) { return key(c[16:164], c[164:420]) }

// SignatureBy gives the signature that says it is by a key of one usage.
func (c *Cert) SignatureBy(usage uint32) (Signature, bool) {
	for _, s := range [][]byte{c[1044:1564], c[1564:]} {
		if u32(s) == usage && u32(s[4:]) == AlgSM2 {
			return Signature{s[8:80], s[80:152]}, true
		}
	}
	return Signature{}, false
}

func key(point, id []byte) (*PublicKey, error) {
	n := int(binary.LittleEndian.Uint16(id))
	if n > idSize {
		return nil, fmt.Errorf("id of %d bytes", n)
	}
	return &PublicKey{Curve: u32(point), X: point[4:76], Y: point[76:148], ID: id[2 : 2+n]}, nil
}

// HSKCEKSize is the size of the file that Hygon's key service gives for a chip.
const HSKCEKSize = RootCertSize + CertSize

// ParseHSKCEK takes that file apart.
func ParseHSKCEK(b []byte) (*RootCert, *Cert, error) {
	if len(b) != HSKCEKSize {
		return nil, nil, fmt.Errorf("hsk_cek: %d bytes, not %d", len(b), HSKCEKSize)
	}
	hsk, cek := RootCert(b[:RootCertSize]), Cert(b[RootCertSize:])
	return &hsk, &cek, nil
}

// The JSON of certificates: their fields by name, bytes as integer arrays.

type wirePoint struct {
	G uint32     `json:"g"`
	X ints.Bytes `json:"x"`
	Y ints.Bytes `json:"y"`
}

type wireSignature struct {
	R ints.Bytes `json:"r"`
	S ints.Bytes `json:"s"`
}

type wireRoot struct {
	Reserved ints.Bytes `json:"_reserved"`
	Body     struct {
		Preamble struct {
			Data struct {
				KID      ints.Bytes `json:"kid"`
				Reserved ints.Bytes `json:"reserved"`
				SID      ints.Bytes `json:"sid"`
				Usage    uint32     `json:"usage"`
			} `json:"data"`
			Ver uint32 `json:"ver"`
		} `json:"preamble"`
		Pubkey   wirePoint  `json:"pubkey"`
		Reserved ints.Bytes `json:"reserved"`
		IDSize   uint16     `json:"uid_size"`
		ID       ints.Bytes `json:"user_id"`
	} `json:"body"`
	Signature wireSignature `json:"signature"`
}

type wireCert struct {
	Body struct {
		Data struct {
			Firmware struct {
				Major uint8 `json:"major"`
				Minor uint8 `json:"minor"`
			} `json:"firmware"`
			Pubkey struct {
				Algo  uint32    `json:"algo"`
				Key   wirePoint `json:"key"`
				Usage uint32    `json:"usage"`
			} `json:"pubkey"`
			Reserved1 uint16     `json:"reserved1"`
			Reserved2 ints.Bytes `json:"reserved2"`
			SID       ints.Bytes `json:"sid"`
			IDSize    uint16     `json:"uid_size"`
			ID        ints.Bytes `json:"user_id"`
		} `json:"data"`
		Ver uint32 `json:"ver"`
	} `json:"body"`
	Sigs []wireCertSig `json:"sigs"`
}

type wireCertSig struct {
	Reserved  ints.Bytes    `json:"_reserved"`
	Algo      uint32        `json:"algo"`
	Signature wireSignature `json:"signature"`
	Usage     uint32        `json:"usage"`
}

// mapping moves fields between a certificate's bytes and its JSON, in the order
// of the bytes; one description serves both directions.
type mapping struct {
	b    []byte
	read bool // from the bytes into the JSON
	at   int
	err  error
}

func (m *mapping) bytes(v *ints.Bytes, n int) {
	field := m.b[m.at : m.at+n]
	m.at += n
	if m.read {
		*v = append(ints.Bytes(nil), field...)
		return
	}
	if err := v.Fixed(n); err != nil && m.err == nil {
		m.err = fmt.Errorf("field at %d: %w", m.at-n, err)
	}
	copy(field, *v)
}

func (m *mapping) u8(v *uint8) {
	b := ints.Bytes{*v}
	m.bytes(&b, 1)
	*v = b[0]
}

func (m *mapping) u16(v *uint16) {
	b := ints.Bytes(binary.LittleEndian.AppendUint16(nil, *v))
	m.bytes(&b, 2)
	*v = binary.LittleEndian.Uint16(b)
}

func (m *mapping) u32(v *uint32) {
	b := ints.Bytes(binary.LittleEndian.AppendUint32(nil, *v))
	m.bytes(&b, 4)
	*v = binary.LittleEndian.Uint32(b)
}

func (m *mapping) point(p *wirePoint) {
	m.u32(&p.G)
	m.bytes(&p.X, coordSize)
	m.bytes(&p.Y, coordSize)
}

func (m *mapping) signature(s *wireSignature) {
	m.bytes(&s.R, coordSize)
	m.bytes(&s.S, coordSize)
}

func (m *mapping) root(w *wireRoot) {
	d := &w.Body.Preamble.Data
	m.u32(&w.Body.Preamble.Ver)
	m.bytes(&d.KID, 16)
	m.bytes(&d.SID, 16)
	m.u32(&d.Usage)
	m.bytes(&d.Reserved, 24)
	m.point(&w.Body.Pubkey)
	m.u16(&w.Body.IDSize)
	m.bytes(&w.Body.ID, idSize)
	m.bytes(&w.Body.Reserved, 108)
	m.signature(&w.Signature)
	m.bytes(&w.Reserved, 112)
}

func (m *mapping) cert(w *wireCert) {
	d := &w.Body.Data
	m.u32(&w.Body.Ver)
	m.u8(&d.Firmware.Major)
	m.u8(&d.Firmware.Minor)
	m.u16(&d.Reserved1)
	m.u32(&d.Pubkey.Usage)
	m.u32(&d.Pubkey.Algo)
	m.point(&d.Pubkey.Key)
	m.u16(&d.IDSize)
	m.bytes(&d.ID, idSize)
	m.bytes(&d.SID, 16)
	m.bytes(&d.Reserved2, 608)
	for i := range w.Sigs {
		m.u32(&w.Sigs[i].Usage)
		m.u32(&w.Sigs[i].Algo)
		m.signature(&w.Sigs[i].Signature)
		m.bytes(&w.Sigs[i].Reserved, 368)
	}
}

// MarshalJSON gives the published form.
func (c *RootCert) MarshalJSON() ([]byte, error) {
	var w wireRoot
	(&mapping{b: c[:], read: true}).root(&w)
	return json.Marshal(w)
}

// UnmarshalJSON takes the published form.
func (c *RootCert) UnmarshalJSON(b []byte) error {
	var w wireRoot
	if err := jsonobject.Strict(b, MaxEvidence, &w); err != nil {
		return err
	}
	m := mapping{b: c[:]}
	m.root(&w)
	return m.err
}

// MarshalJSON gives the published form.
func (c *Cert) MarshalJSON() ([]byte, error) {
	w := wireCert{Sigs: make([]wireCertSig, 2)}
	(&mapping{b: c[:], read: true}).cert(&w)
	return json.Marshal(w)
}

// UnmarshalJSON takes the published form.
func (c *Cert) UnmarshalJSON(b []byte) error {
	var w wireCert
	if err := jsonobject.Strict(b, MaxEvidence, &w); err != nil {
		return err
	}
	if len(w.Sigs) != 2 {
		return errors.New("a certificate has two signatures")
	}
	m := mapping{b: c[:]}
	m.cert(&w)
	return m.err
}
