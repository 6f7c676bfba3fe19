package quote

import "encoding/binary"

// Bytes gives the 48 bytes.
func (h *Header) Bytes() []byte {
	b := binary.LittleEndian.AppendUint16(make([]byte, 0, HeaderSize), h.Version)
	b = binary.LittleEndian.AppendUint16(b, h.AttKeyType)
	b = binary.LittleEndian.AppendUint32(b, h.TEEType)
	b = append(b, h.Reserved[:]...)
	b = append(b, h.Vendor[:]...)
	return append(b, h.UserData[:]...)
}

// SignedPart gives header and body as the attestation key signs them. BodyType
// and BodySize follow from what is set.
func (q *Quote) SignedPart() []byte {
	var body []byte
	typ := BodyEnclave
	switch {
	case q.Enclave != nil:
		body = q.Enclave.Bytes()
	case q.TD.V15 != nil:
		body, typ = q.TD.Bytes(), BodyTD15
	default:
		body, typ = q.TD.Bytes(), BodyTD10
	}
	b := q.Header.Bytes()
	if q.Header.Version == 5 {
		b = binary.LittleEndian.AppendUint16(b, typ)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	}
	return append(b, body...)
}

// Bytes puts a quote together from Signed and the parts of the signature data.
func (q *Quote) Bytes() []byte {
	inner := append([]byte(nil), q.QEReportRaw...)
	inner = append(inner, q.QEReportSignature...)
	inner = binary.LittleEndian.AppendUint16(inner, uint16(len(q.QEAuthData)))
	inner = append(inner, q.QEAuthData...)
	inner = binary.LittleEndian.AppendUint16(inner, q.CertType)
	inner = binary.LittleEndian.AppendUint32(inner, uint32(len(q.CertData)))
	inner = append(inner, q.CertData...)

	sig := append([]byte(nil), q.Signature...)
	sig = append(sig, q.AttestationKey...)
	if q.Header.Version > 3 {
		sig = binary.LittleEndian.AppendUint16(sig, CertQEReport)
		sig = binary.LittleEndian.AppendUint32(sig, uint32(len(inner)))
	}
	sig = append(sig, inner...)

	out := append([]byte(nil), q.Signed...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(sig)))
	return append(out, sig...)
}
