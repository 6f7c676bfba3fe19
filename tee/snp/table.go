package snp

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// GUIDs of a certificate table (GHCB specification, MSG_REPORT_REQ; the CRL's is
// the published codec's). Their bytes go in the order of the text.
var certGUIDs = []struct{ name, guid string }{
	{CertARK, "c0b406a4-a803-4952-9743-3fb6014cd0ae"},
	{CertASK, "4ab7b379-bbac-4fe4-a02f-05aef327c782"},
	{CertVCEK, "63da758d-e664-4564-adc5-f4b93be8accd"},
	{CertVLEK, "a8074bc2-a25a-483e-aae6-39c045a0b8a1"},
	{CertCRL, "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"},
	{CertEmpty, "00000000-0000-0000-0000-000000000000"},
}

const tableEntry = 24

// MaxTable bounds a certificate table, in bytes.
const MaxTable = MaxCerts * (MaxCert + tableEntry)

// ParseTable reads the certificate table that comes with an extended report: the
// host wrote it, so nothing in it is believed before it is verified. A blob
// without an entry is nil.
func ParseTable(b []byte) ([]Cert, error) {
	if len(b) > MaxTable {
		return nil, fmt.Errorf("certificate table: %d bytes, at most %d", len(b), MaxTable)
	}
	var out []Cert
	for i := 0; len(b) > 0; i++ {
		if len(b) < (i+1)*tableEntry {
			return nil, errors.New("certificate table: no end")
		}
		e := b[i*tableEntry : (i+1)*tableEntry]
		if zero(e) {
			break
		}
		if i == MaxCerts {
			return nil, fmt.Errorf("certificate table: more than %d entries", MaxCerts)
		}
		off, n := binary.LittleEndian.Uint32(e[16:]), binary.LittleEndian.Uint32(e[20:])
		if uint64(off)+uint64(n) > uint64(len(b)) || n > MaxCert {
			return nil, fmt.Errorf("certificate table: entry %d: %d bytes at %d", i, n, off)
		}
		out = append(out, Cert{Type: certType([16]byte(e[:16])), Data: b[off : off+n : off+n]})
	}
	return out, nil
}

// EncodeTable writes a certificate table.
func EncodeTable(certs []Cert) ([]byte, error) {
	if len(certs) > MaxCerts {
		return nil, fmt.Errorf("certificate table: %d entries, at most %d", len(certs), MaxCerts)
	}
	b := make([]byte, (len(certs)+1)*tableEntry)
	for i, c := range certs {
		id := c.Type
		for _, g := range certGUIDs {
			if g.name == c.Type {
				id = g.guid
			}
		}
		g, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
		if err != nil || len(g) != 16 || len(c.Data) > MaxCert {
			return nil, fmt.Errorf("certificate table: entry %d: bad type %q or too long", i, c.Type)
		}
		e := b[i*tableEntry:]
		copy(e, g)
		binary.LittleEndian.PutUint32(e[16:], uint32(len(b)))
		binary.LittleEndian.PutUint32(e[20:], uint32(len(c.Data)))
		b = append(b, c.Data...)
	}
	return b, nil
}

func certType(b [16]byte) string {
	x := hex.EncodeToString(b[:])
	id := x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
	for _, g := range certGUIDs {
		if g.guid == id {
			return g.name
		}
	}
	return id
}

func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
